"""The web board as a person meets it: every control tried in a browser, at two window sizes.

Skipped where there is no Chromium, or no Playwright to drive it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from web_server import running

from selfplay.serve.web import server

pytestmark = pytest.mark.browser
SIZES = {"desk": (1280, 800), "phone": (390, 844)}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
SECONDS = 60_000  #: milliseconds to wait for a net on a busy machine

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running(tmp_path_factory.mktemp("runs"), "go5x5") as number:
        yield number


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install -e .[dev])")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH (apt install chromium)")
    with api.sync_playwright() as play:
        made = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(params=SIZES)
def opened(request: pytest.FixtureRequest, browser: Any, port: int) -> Iterator[Open]:
    """(path="", **options of the browser) -> a page. In the end: no page asked another machine for
    anything, none is wider than its window, and nothing was wrong in a script."""
    width, height = SIZES[request.param]
    asked: list[str] = []
    wrong: list[str] = []
    pages: list[Any] = []

    def make(path: str = "", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height},
                                      has_touch=request.param == "phone", **options)
        page = context.new_page()
        page.set_default_timeout(SECONDS)
        page.on("request", lambda r: asked.append(r.url))
        page.on("websocket", lambda w: asked.append(w.url.replace("ws:", "http:")))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.goto(f"http://127.0.0.1:{port}/{path}")
        page.wait_for_selector("#board .ground")
        page.phone = request.param == "phone"
        pages.append(page)
        return page

    yield make
    for page in pages:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.context.close()
    assert asked and all(url.startswith((f"http://127.0.0.1:{port}/", "blob:", "data:"))
                         for url in asked), asked
    assert not wrong


def see(page: Any, selector: str) -> Any:
    """What may be expected of an element."""
    from playwright.sync_api import expect

    expect.set_options(timeout=SECONDS)
    return expect(page.locator(selector))


def stones(page: Any, count: int) -> None:
    see(page, "#board .stones .stone").to_have_count(count)


def humans(page: Any) -> None:
    """Nobody but the test plays."""
    page.click("[data-tab=seats]")
    for side in (0, 1):
        page.select_option(f'[data-seat="{side}"][data-key=who]', "human")
        see(page, f"#seat-{side} span").to_have_text("you")
    page.click("[data-tab=analysis]")


def thought(page: Any) -> None:
    """The analysis of what is shown has ended."""
    see(page, "#board .candidate.best").to_have_count(1)
    see(page, "#candidates").to_have_attribute("aria-busy", "false")


def cell(page: Any, number: int) -> None:
    """As a finger or a mouse does it."""
    at = page.locator(f'#board [data-cell="{number}"]')
    at.tap() if page.phone else at.click()


def test_playing_against_a_net(opened: Open) -> None:
    page = opened()
    cell(page, 12)
    stones(page, 2)
    see(page, "#status").to_contain_text("Black to move")
    see(page, "#ply").to_have_text("2 / 2")
    page.click("#undo")
    stones(page, 0)
    page.click("#on")
    stones(page, 1)
    page.click("#last")
    stones(page, 2)
    page.click("#back")
    stones(page, 1)
    page.click("#first")
    stones(page, 0)
    see(page, "#undo").to_be_disabled()
    page.click("#last")
    page.click("#resign")
    see(page, "#status").to_have_text("White wins: black has resigned")
    page.click("#undo")
    page.click("#pass")
    see(page, "#ply").to_have_text(re.compile("[23] / [23]"))  # the net may pass as well


def test_the_net_moves_for_me(opened: Open) -> None:
    page = opened()
    see(page, "#run").to_contain_text("Net moves")
    page.click("#run")
    stones(page, 1)
    see(page, "#seat-1 span").to_have_text("you")


def test_two_nets_play_and_pause(opened: Open) -> None:
    page = opened()
    page.click("[data-tab=seats]")
    who = page.locator('[data-seat="0"][data-key=who]')
    who.select_option("mcts")
    see(page, "#seat-0 span").to_contain_text("playouts")
    for side in (0, 1):
        page.select_option(f'[data-seat="{side}"][data-key=sims]', "16")
        see(page, f"#seat-{side} span").to_contain_text("16 sims")
    page.fill('[data-seat="0"][data-key=strength]', "2")
    see(page, "#seat-0 span").to_contain_text("16 sims, easy")
    see(page, "#run").to_contain_text("Play")
    page.click("#run")
    see(page, "#run").to_contain_text("Pause")
    see(page, "#board .stones .stone").not_to_have_count(0)
    page.locator("#run").evaluate("button => button.click()")  # none where the game is over by now
    see(page, "#run").to_contain_text("Play")


def test_analysis(opened: Open) -> None:
    page = opened()
    humans(page)
    see(page, "#candidates").to_contain_text("Turn the analysis on")
    page.click("label.switch")
    page.select_option("#sims", "50")
    see(page, "#board .candidate.best").to_have_count(1)
    see(page, "#pv").to_contain_text("Best line")
    page.click("[data-overlay=policy]")
    see(page, "#board .heat").not_to_have_count(0)
    see(page, "#board .candidate").to_have_count(0)
    page.click("[data-overlay=off]")
    see(page, "#board .heat").to_have_count(0)
    page.click("[data-overlay=visits]")
    see(page, "#board .own rect").to_have_count(0)
    page.click("#ownership")
    see(page, "#board .own rect").not_to_have_count(0)
    page.select_option("#net", "mcts")
    see(page, "#candidates").to_have_attribute("data-nets", "mcts|")
    thought(page)
    page.locator("#candidates tbody tr").first.click()
    see(page, "#board .ghosts .ghost").not_to_have_count(0)
    see(page, "#board .candidate").to_have_count(0)
    page.locator("#candidates tbody tr").first.click()
    if not page.phone:
        page.hover("#candidates tbody tr >> nth=1")
        see(page, "#board .ghosts .ghost").not_to_have_count(0)
        page.hover("#status")
        see(page, "#board .ghosts .ghost").to_have_count(0)
    page.locator("#candidates [data-play]").first.click()
    see(page, "#ply").to_have_text("1 / 1")
    see(page, "#curve .c-line").to_have_count(1)
    width = page.locator("#curve").bounding_box()["width"]
    page.locator("#curve").click(position={"x": width * 0.08, "y": 20})
    see(page, "#ply").to_have_text("0 / 1")
    page.locator("label.switch").click()
    see(page, "#analysis-on").not_to_be_checked()


def test_two_nets_side_by_side(opened: Open) -> None:
    page = opened("?game=tictactoe")
    humans(page)
    page.select_option("#sims", "16")
    page.select_option("#beside-net", index=2)
    see(page, "#beside .candidate.best").to_have_count(1)
    see(page, "#board .candidate.best").to_have_count(1)
    see(page, "#main-caption").to_contain_text("RL")
    see(page, "#beside-caption").to_contain_text("SFT")
    page.locator('#beside [data-cell="4"]').click()
    see(page, "#beside .cross").to_have_count(1)
    see(page, "#board .cross").to_have_count(1)
    thought(page)
    see(page, "#beside .candidate.best").to_have_count(1)
    page.click("[data-tab=tree]")
    page.click("#tree-side [data-side='1']")
    see(page, "#tree tbody tr").not_to_have_count(0)
    page.click("[data-tab=analysis]")
    page.select_option("#beside-net", "")
    see(page, "#beside").to_be_hidden()


def test_the_tree_is_walked(opened: Open) -> None:
    page = opened()
    page.click("[data-tab=tree]")
    see(page, "#tree-note").to_contain_text("Turn the analysis on")
    page.click("[data-tab=analysis]")
    page.select_option("#sims", "100")
    page.locator("label.switch").click()
    thought(page)
    page.click("[data-tab=tree]")
    page.locator("#tree tbody tr").first.click()
    see(page, "#main-caption").to_contain_text("In the search")
    stones(page, 1)
    page.locator("#tree tbody tr").first.click()
    stones(page, 2)
    see(page, "#tree-path .crumb").to_have_count(3)
    page.click("#tree-up")
    stones(page, 1)
    page.click("#tree-path .crumb >> nth=0")
    stones(page, 0)
    see(page, "#ply").to_have_text("0 / 0")


def test_the_tree_says_nothing_while_a_net_makes_its_move(opened: Open) -> None:
    page = opened()
    page.click("[data-tab=seats]")
    page.select_option('[data-seat="1"][data-key=sims]', "4000")
    page.click("[data-tab=tree]")
    see(page, ".toast.bad").to_contain_text("turn the analysis on")
    page.evaluate("document.querySelector('#toasts').replaceChildren()")
    cell(page, 12)
    see(page, "#status").to_contain_text("White thinks")
    see(page, "#status").to_contain_text("Black to move")
    assert page.locator(".toast.bad").count() == 0


def test_moves_and_variations(opened: Open) -> None:
    page = opened()
    humans(page)
    for n, at in enumerate((12, 6, 18), 1):
        cell(page, at)
        stones(page, n)
    page.click("[data-tab=moves]")
    see(page, "#moves .move").to_have_count(3)
    page.click("#moves .move >> nth=0")
    stones(page, 1)
    cell(page, 8)
    see(page, "#moves .other").to_have_count(1)
    see(page, "#moves .move.here").to_have_text("D2")
    page.click("#moves .other")
    see(page, "#moves .move.here").to_have_text("B2")
    see(page, "#moves .move").to_have_count(3)


def test_editing(opened: Open) -> None:
    page = opened()
    page.click("#edit")
    cell(page, 12)
    stones(page, 1)
    page.click("#editor-stone [data-stone='-1']")
    cell(page, 6)
    cell(page, 7)
    page.click("#editor-stone [data-stone='0']")
    cell(page, 7)
    see(page, "#board .stone.s1").to_have_count(1)
    page.select_option("#editor-turn", "1")
    page.click("#editor-done")
    see(page, "#editor").to_be_hidden()
    see(page, "#status").to_contain_text("White to move")
    stones(page, 2)
    page.click("#edit")
    page.click("#editor-clear")
    stones(page, 0)
    page.click("#editor-cancel")
    stones(page, 2)


def test_a_position_that_cannot_be(opened: Open) -> None:
    page = opened("?game=connect4")
    page.click("#edit")
    page.locator('#board [data-cell="35"]').click()  # it would fly
    page.click("#editor-done")
    see(page, ".toast.bad").to_contain_text("cannot be set up")
    page.click("#editor-cancel")
    page.locator('#board [data-cell="38"]').click()  # a click anywhere in a column
    see(page, "#board .stone.s0").to_have_count(1)


def test_new_games(opened: Open) -> None:
    page = opened()
    page.click("#game-name")
    page.click("#new-dialog button[value=cancel]")
    see(page, "#new-dialog").to_be_hidden()
    page.click("#new")
    page.select_option("#new-game", "openspiel:mancala")
    page.click("[data-mode=both]")
    page.click("#new-go")
    see(page, "#game-name").to_have_text("Mancala")
    page.click("#choices button >> nth=0")
    see(page, "#ply").to_have_text("1 / 1")
    page.click("#new")
    page.fill("#new-own", "openspiel:hex(board_size=5)")
    page.click("[data-mode=second]")
    page.click("#new-go")
    see(page, "#board .cell").to_have_count(25)
    stones(page, 1)
    page.click("#new")
    page.fill("#new-own", "hexx")
    page.click("[data-mode=nets]")
    page.click("[data-mode=first]")
    page.click("#new-go")
    see(page, ".toast.bad").to_contain_text("unknown game 'hexx'")
    stones(page, 1)


def test_a_piece_moves_by_two_clicks(opened: Open, tmp_path: Path) -> None:
    """And where several moves end on a cell, a menu asks."""
    page = opened("?game=openspiel:chess")
    humans(page)
    cell(page, 52)
    see(page, "#board .start").to_have_count(2)
    cell(page, 52)
    see(page, "#board .start").to_have_count(0)
    cell(page, 52)
    cell(page, 36)
    see(page, "#ply").to_have_text("1 / 1")
    file = tmp_path / "game.txt"
    moves = ["h4", "g5", "hxg5", "h6", "gxh6", "Bg7", "hxg7", "Nc6"]
    file.write_text("\n".join(["selfplay game: openspiel:chess", *moves, ""]))
    page.set_input_files("#file", file)
    see(page, "#ply").to_have_text("8 / 8")
    cell(page, 14)
    cell(page, 7)
    see(page, "#menu button").to_have_count(4)
    page.click("#menu button >> nth=0")
    see(page, "#ply").to_have_text("9 / 9")


def test_files(opened: Open, tmp_path: Path) -> None:
    page = opened()
    with page.expect_file_chooser():
        page.click("#load")
    good, bad, large = (tmp_path / name for name in ("good.sgf", "bad.sgf", "large.sgf"))
    good.write_text("(;SZ[5];B[cc];W[bb](;B[dd];W[cb])(;B[bc]))")
    bad.write_text("(;SZ[5];B[cc];W[cc])")
    large.write_text("(;SZ[5]C[" + "x" * 1_000_000 + "])")
    page.set_input_files("#file", good)
    see(page, "#ply").to_have_text("4 / 4")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "go5x5.sgf"
    assert Path(download.value.path()).read_text().count(";B[") == 3
    page.set_input_files("#file", bad)
    see(page, ".toast").to_contain_text("move 2: C3 is illegal")
    see(page, "#ply").to_have_text("1 / 1")
    page.set_input_files("#file", large)
    see(page, ".toast.bad").to_contain_text("too large")
    stones(page, 1)


def test_light_and_dark(opened: Open) -> None:
    bright, black = "2[0-9]{2}", "[0-3]?[0-9]"

    def ground(page: Any, part: str) -> None:
        colour = re.compile(rf"rgb\({part}, {part}, {part}\)")
        see(page, "body").to_have_css("background-color", colour)

    light, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    ground(light, bright)
    ground(dark, black)
    dark.click("#theme")
    ground(dark, bright)
    dark.reload()
    dark.wait_for_selector("#board .ground")
    ground(dark, bright)
    dark.click("#theme")
    ground(dark, black)
    dark.click("#help")
    see(dark, "#keys kbd").not_to_have_count(0)
    dark.click("#help-dialog button")


def test_two_browsers_on_one_game_and_a_third_alone(opened: Open) -> None:
    page = opened()
    humans(page)
    other, third = opened(page.evaluate("location.hash")), opened()
    cell(page, 12)
    stones(other, 1)
    cell(other, 6)
    stones(page, 2)
    stones(third, 0)


def test_keys(opened: Open) -> None:
    page = opened()
    if page.phone:
        pytest.skip("a phone has no keys")
    humans(page)
    for count, at in enumerate((12, 6), 1):
        cell(page, at)
        stones(page, count)
    press = page.keyboard.press
    for key, count in (("ArrowLeft", 1), ("ArrowRight", 2), ("Home", 0), ("End", 2), ("u", 1)):
        press(key)
        stones(page, count)
    press("p")
    see(page, "#ply").to_have_text("2 / 2")
    press(" ")
    see(page, "#analysis-on").to_be_checked()
    press("h")
    see(page, "[data-overlay=off]").to_have_attribute("aria-pressed", "true")
    press("o")
    see(page, "#ownership").to_have_attribute("aria-pressed", "true")
    for key, tab in (("2", "moves"), ("3", "tree"), ("4", "seats"), ("1", "analysis")):
        press(key)
        see(page, f"#tab-{tab}").to_be_visible()
    press("e")
    see(page, "#editor").to_be_visible()
    press("Escape")
    see(page, "#editor").to_be_hidden()
    for key, dialog in (("n", "#new-dialog"), ("?", "#help-dialog")):
        press(key)
        see(page, dialog).to_be_visible()
        press("Escape")
        see(page, dialog).to_be_hidden()
    press("d")
    see(page, "#theme").to_have_attribute("data-theme", "light")
    with page.expect_file_chooser():
        press("l")
    with page.expect_download():
        press("s")
    page.locator("#board").focus()
    press("ArrowUp")
    press("ArrowUp")
    see(page, "#board .cursor").to_have_count(1)
    press("Enter")
    stones(page, 2)
    press("Escape")
    press("r")
    see(page, "#status").to_contain_text("has resigned")


def test_on_a_dense_board_a_finger_asks_first(opened: Open) -> None:
    page = opened("?game=openspiel:mnk")
    humans(page)
    cell(page, 112)
    if page.phone:
        see(page, "#board .ghost").to_have_count(1)
        stones(page, 0)
        cell(page, 112)
    stones(page, 1)


def test_the_server_goes(opened: Open, tmp_path: Path) -> None:
    page = opened()
    with running(tmp_path / "other", "tictactoe") as other:
        page.context.set_offline(False)
        elsewhere = page.context.new_page()
        elsewhere.goto(f"http://127.0.0.1:{other}/")
        elsewhere.wait_for_selector("#board .ground")
    see(elsewhere, "#banner").to_contain_text("selfplay play")


def test_every_control_is_in_these_tests() -> None:
    page, here = (server.STATIC / "index.html").read_text(), Path(__file__).read_text()
    controls = re.findall(r"<(?:button|select|input|textarea)\b[^>]*\bid=\"([\w-]+)\"", page)
    assert len(controls) > 25
    names = {"analysis-on": "label.switch"}
    missing = [name for name in controls if names.get(name, f"#{name}") not in here]
    assert not missing
