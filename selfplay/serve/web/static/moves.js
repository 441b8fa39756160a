// What follows from a cell that is chosen: moves, the walk through a game and a tree, editing.

import {themeOf} from "./board.js";
import {draw} from "./drawing.js";
import {$, page, toast} from "./page.js";
import {esc} from "./panels.js";
import {say} from "./server.js";

export const canPlay = () => {
  const {state} = page, p = state.position;
  return !p.over && !page.edit && state.thinking < 0 && !(page.tab === "tree" && page.treeTexts.length);
};
export const passMove = () => page.state.position.moves.find((m) => m[0] === page.state.game.pass || m[1].toLowerCase() === "pass");
export const goto = (node) => say({do: "goto", node});

export function play(action) {
  if (!canPlay()) return;
  say({do: "play", action, at: page.state.node});
}

function sameColumn(a, b) { const {places} = page.state.game; return places[a][0] === places[b][0]; }

function movesTo(cell) {
  const {state} = page, moves = state.position.moves;
  if (state.game.shape === "columns") return moves.filter((m) => m[2] >= 0 && sameColumn(m[2], cell));
  const connect = state.game.name.startsWith("openspiel:connect");
  return moves.filter((m) => (m[2] === cell || connect && m[2] >= 0 && sameColumn(m[2], cell)) && (m[3] < 0 || m[3] === page.selected));
}

/** The cell on which a stone would come to lie, for a pointer over a cell. */
export function targetOf(cell) {
  if (cell < 0) return -1;
  const found = movesTo(cell);
  return found.length && found[0][3] < 0 ? found[0][2] : -1;
}

export function startsShown() {
  const {state} = page, {moves} = state.position;
  if (page.selected >= 0) return [...new Set(moves.filter((m) => m[3] === page.selected).map((m) => m[2]))];
  return themeOf(state.game) === "felt" && canPlay() ? moves.map((m) => m[2]).filter((c) => c >= 0) : [];
}

export function onCell(cell) {
  page.hover = -1;
  if (page.edit) return place(cell);
  if (!canPlay()) return;
  const found = movesTo(cell);
  if (found.length === 1) { page.selected = -1; return play(found[0][0]); }
  if (found.length > 1) return choose(found, cell);
  const starts = page.state.position.moves.some((m) => m[3] === cell);
  page.selected = starts && page.selected !== cell ? cell : -1;
  draw();
}

// Several moves end on one cell (promotion): a small menu.
function choose(moves, cell) {
  const menu = $("menu"), hit = document.querySelector(`#board [data-cell="${cell}"]`).getBoundingClientRect();
  menu.innerHTML = moves.map((m) => `<button role="menuitem" data-action="${m[0]}">${esc(m[1])}</button>`).join("");
  menu.hidden = false;
  menu.style.left = `${Math.min(hit.left, innerWidth - menu.offsetWidth - 8)}px`;
  menu.style.top = `${Math.min(hit.bottom, innerHeight - menu.offsetHeight - 8)}px`;
  for (const b of menu.children) b.onclick = () => { menu.hidden = true; page.selected = -1; play(Number(b.dataset.action)); };
  menu.firstElementChild.focus();
}
document.addEventListener("pointerdown", (e) => { if (!$("menu").contains(e.target)) $("menu").hidden = true; });

export function step(by) {
  if (page.edit || !page.state) return;
  const at = page.nodes[page.state.node].depth + by, all = [0, ...page.line];
  goto(all[Math.max(0, Math.min(all.length - 1, at))]);
}

export const treeSide = () => page.state.analysis.beside ? page.treeSide : 0;

export function walk(path, texts) {
  page.treeTexts = texts;
  say({do: "tree", path, side: treeSide()});
}

// In a game with one human, the net makes the move of whoever is to move.
export function runEngines(run) {
  const {state} = page, seats = state.seats.map((s) => ({...s})), side = state.position.to_play;
  if (run && seats[side].who === "human") { say({do: "seats", seats: [seats[1], seats[0]], run}); return; }
  say({do: "seats", seats, run});
}

// ------------------------------------------------------------------------------- editing

export function startEdit() {
  const {state} = page;
  if (!state.game.setup) return toast("This game's positions cannot be edited; play moves of both sides instead.", true);
  page.edit = page.edit ? null : {stones: state.position.pieces.map((s) => s === "0" ? 1 : s === "1" ? -1 : 0), stone: 1, turn: state.position.to_play};
  if (page.edit) {
    $("editor-stone").innerHTML = [[1, state.game.sides[0]], [-1, state.game.sides[1]], [0, "empty"]].map(([s, t]) => `<button data-stone="${s}">${esc(t)}</button>`).join("");
    for (const b of $("editor-stone").children) b.onclick = () => { page.edit.stone = Number(b.dataset.stone); markEditor(); };
    $("editor-turn").innerHTML = state.game.sides.map((s, n) => `<option value="${n}">${esc(s)}</option>`).join("");
    $("editor-turn").value = String(page.edit.turn);
    markEditor();
  }
  draw();
}

function markEditor() { for (const b of $("editor-stone").children) b.setAttribute("aria-pressed", Number(b.dataset.stone) === page.edit.stone); }

function place(cell) {
  const {edit} = page;
  edit.stones[cell] = edit.stones[cell] === edit.stone ? 0 : edit.stone;
  draw();
}
