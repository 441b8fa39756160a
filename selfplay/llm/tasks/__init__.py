"""Questions with checkable answers: data sets of reasoning-gym, files, and tasks of one's own."""

from .gym import SHORT, chain_sum, chain_sum_forgetting, demonstration
from .rows import Lines
from .task import Task, make_task

__all__ = ["SHORT", "Lines", "Task", "chain_sum", "chain_sum_forgetting", "demonstration",
           "make_task"]
