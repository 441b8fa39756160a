"""Draw docs/parts.svg, the folders as floors: ``python scripts/draw_parts.py``.

A test holds the picture to the floors of tests/test_layout.py; a new folder is a line here.
"""

from __future__ import annotations

from pathlib import Path

#: Lowest first: the folders of a floor, each with what it knows.
PARTS: tuple[dict[str, str], ...] = (
    {"games": "rules", "models": "nets"},
    {"common": "files, settings, threads, the terminal"},
    {"search": "trees; no rules, no net"},
    {"learn": "gradients; no games, no tokens"},
    {"report": "numbers in, charts and words out"},
    {"inference": "nets on devices"},
    {"arena": "who plays whom"},
    {"board": "learning to play"},
    {"run": "folder, clock, stages, chart"},
    {"llm": "text as a game; apart from board"},
    {"serve": "GTP, analysis, reviews"},
    {"cluster": "more machines, on Ray"},
    {"api": "import selfplay", "bench": "the speed table"},
    {"cli": "the command line"},
)
WIDTH, FLOOR, EDGE, ARROW = 720, 44, 16, 84  #: pixels; ARROW from the right
STYLE = (".box{fill:#eef3fb;stroke:#3b6fb6}.folder{font-weight:bold;fill:#1d3f72}"
         ".about{fill:#444}.note{fill:#666;font-size:13px}")


def drawing() -> str:
    """The SVG."""
    ground, x = EDGE + len(PARTS) * FLOOR, WIDTH - ARROW
    height = ground + EDGE + 26
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
           'font-family="sans-serif" font-size="15" role="img" aria-labelledby="title">',
           '<title id="title">The folders of selfplay as floors</title>',
           f"<style>{STYLE}</style>", f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>']
    for level, floor in enumerate(PARTS):
        y, wide = ground - (level + 1) * FLOOR, (WIDTH - 140) / len(floor) - 5 * (len(floor) > 1)
        for place, (folder, about) in enumerate(floor.items()):
            left = 20 + place * (wide + 10)
            out += [f'<rect class="box" x="{left:g}" y="{y}" width="{wide:g}" '
                    f'height="{FLOOR - 8}" rx="5"/>',
                    f'<text class="folder" x="{left + 14:g}" y="{y + 23}">{folder}</text>',
                    f'<text class="about" x="{left + 104:g}" y="{y + 23}">{about}</text>']
    out += [f'<path d="M{x} {EDGE + 10}V{ground - 20}" stroke="#3b6fb6" stroke-width="3"/>',
            f'<path d="M{x - 8} {ground - 24}h16l-8 14z" fill="#3b6fb6"/>',
            f'<text class="note" x="{x + 14}" y="{(EDGE + ground) // 2}">imports</text>',
            f'<text class="note" x="20" y="{ground + 20}">A file imports from its own folder, '
            "without a circle, or from a lower floor.</text>", "</svg>"]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent.parent / "docs/parts.svg").write_text(drawing())
