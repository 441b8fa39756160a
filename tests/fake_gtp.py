"""A scripted GTP engine for tests. Usage: fake_gtp.py BEHAVIOUR [KEY=VALUE ...]

Behaviours: good, die, nonsense, vertex, illegal, slow, refuse, cleanup, resign, noisy, badid,
child, daemon (a child in a session of its own), stranger (as that, without environment), flood (an
answer without end), oneline (answers end in a single newline). Keys: moves (on the board before it
passes or dies), games (played before it dies or refuses), seconds, log (a file that gets every
command).
It plays on every second line only, so that no stone is ever captured.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time

COLUMNS = "ABCDEFGHJKLMNOPQRST"
COMMANDS = ["boardsize", "clear_board", "komi", "play", "genmove", "undo", "set_random_seed",
            "list_commands", "echo", "lines", "time_settings", "time_left", "quit"]


class Engine:
    def __init__(self, behaviour: str, options: dict[str, str]) -> None:
        self.behaviour, self.options = behaviour, options
        self.size, self.moves, self.rng, self.games = 9, [], random.Random(0), 0

    def answer(self, name: str, arguments: list[str]) -> str:
        """The reply with its status, without id."""
        if name == "boardsize":
            if self.behaviour == "refuse" and self.games >= int(self.options.get("games", "0")):
                return "? unacceptable size"
            self.size = int(arguments[0])
        elif name == "clear_board":
            self.moves = []
            self.games += 1
        elif name == "set_random_seed":
            self.rng = random.Random(int(arguments[0]))
        elif name == "play":
            self.moves.append(arguments[1].upper())
        elif name == "undo":
            self.moves.pop()
        elif name == "list_commands":
            known = COMMANDS + ["kgs-genmove_cleanup"] * (self.behaviour == "cleanup")
            return "= " + "\n".join(known)
        elif name == "echo":
            return "= " + " ".join(arguments)
        elif name == "lines":
            return "= one\n  two\nthree"
        elif name in ("genmove", "kgs-genmove_cleanup"):
            return self.genmove(name)
        elif name not in ("komi", "time_settings", "time_left", "quit"):
            return "? unknown command"
        return "="

    def genmove(self, name: str) -> str:
        if self.behaviour == "slow":
            time.sleep(float(self.options.get("seconds", "0.5")))
        if self.behaviour == "vertex":
            return "= Z99"
        if self.behaviour == "illegal" and self.moves:
            return f"= {next(m for m in self.moves if m != 'PASS')}"
        if self.behaviour == "resign":
            return "= resign"
        own = sum(m != "PASS" for m in self.moves)
        limit = int(self.options.get("moves", "6"))
        if (self.behaviour == "die" and own >= limit
                and self.games > int(self.options.get("games", "0"))):
            print("cannot go on: out of cheese", file=sys.stderr, flush=True)
            sys.exit(3)
        wants_pass = own >= limit or (self.behaviour == "cleanup" and name == "genmove")
        move = "PASS" if wants_pass else self.rng.choice(self.free())
        self.moves.append(move)
        return f"= {move}"

    def free(self) -> list[str]:
        points = [f"{COLUMNS[c]}{r + 1}" for r in range(0, self.size, 2)
                  for c in range(0, self.size, 2)]
        return [p for p in points if p not in self.moves]


def main() -> None:
    behaviour, options = sys.argv[1], dict(a.split("=", 1) for a in sys.argv[2:])
    engine = Engine(behaviour, options)
    if behaviour == "noisy":
        print("x" * 200_000, file=sys.stderr, flush=True)
    if behaviour in ("child", "daemon", "stranger"):  # its process group outlives a polite quit
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                                 start_new_session=behaviour != "child",
                                 env={} if behaviour == "stranger" else None)
        options["child"] = str(child.pid)
    for line in sys.stdin:
        words = line.split()
        number = words.pop(0) if words[0].isdecimal() else ""
        name, *arguments = words
        if "log" in options:
            with open(options["log"], "a") as log:
                log.write(" ".join(words) + "\n")
        if name == "child":
            print(f"={number} {options['child']}\n", flush=True)
            continue
        if behaviour == "nonsense" and name == "genmove":
            print("Hello, how can I help you?\n", flush=True)
            continue
        while behaviour == "flood":
            print("x" * 65536, end="", flush=True)
        reply = engine.answer(name, arguments)
        said = "99999" if behaviour == "badid" else number
        print(f"{reply[0]}{said}{reply[1:]}", end="\n" if behaviour == "oneline" else "\n\n",
              flush=True)
        if name == "quit":
            return


if __name__ == "__main__":
    main()
