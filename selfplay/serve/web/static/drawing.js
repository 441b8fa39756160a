// The page, drawn from the state: boards and what is on them, players, controls, panels.

import {Board, themeOf} from "./board.js";
import {canPlay, goto, onCell, passMove, play, startsShown, targetOf, walk} from "./moves.js";
import {$, STRENGTH, capital, labelOf, page, stone} from "./page.js";
import {drawCandidates, drawCurve, drawMoves, drawTree, esc, many, percent, winrate} from "./panels.js";
import {slow} from "./server.js";

const HEAT_LEAST = 0.004;
const CANDIDATES = 9; // moves with numbers on the board

const board = new Board($("board"), onCell, (cell) => { page.hover = cell; later(); });
const besideBoard = new Board($("beside"), onCell, (cell) => { page.hover = cell; later(); });

let waiting = false;
export function later() { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } }

export function draw() {
  if (!page.state) return;
  const {state} = page;
  const walking = page.tab === "tree" && page.tree && page.treeTexts.length > 0;
  const beside = state.analysis.on && state.analysis.beside !== "" && !page.edit;
  $("beside-figure").hidden = !beside;
  $("boards").classList.toggle("two", beside);
  board.draw(view(0, walking));
  if (beside) besideBoard.draw(view(1, false));
  caption($("main-caption"), beside ? labelOf(state.analysis.net) : walking ? `In the search: ${page.treeTexts.join(" ")}` : "", beside ? page.reports[0] : null);
  caption($("beside-caption"), beside ? labelOf(state.analysis.beside) : "", page.reports[1]);
  drawPlayers();
  drawControls();
  drawChoices();
  if (page.tab === "analysis") drawAnalysis();
  if (page.tab === "moves") drawMoves($("moves"), page.line.map((n) => page.nodes[n]), page.nodes, state.node, themeOf(state.game), goto);
  if (page.tab === "tree") drawTreeTab();
}

function caption(element, text, report) {
  const value = report ? ` <b>${percent(winrate(report.value, page.state.position.to_play))}</b> ${many(report.visits)} visits` : "";
  element.innerHTML = text ? `${esc(text)}${value}` : "";
}

function view(side, walking) {
  const {state} = page, p = state.position, report = page.reports[side];
  if (page.edit) return {game: state.game, pieces: page.edit.stones.map((s) => s === 1 ? "0" : s === -1 ? "1" : ""), last: [], cursor: page.cursor, turn: page.edit.turn,
    ghosts: page.hover >= 0 && page.edit.stone ? [{cell: page.hover, side: page.edit.stone === 1 ? 0 : 1}] : []};
  if (walking) return {game: state.game, pieces: page.tree.pieces, last: [], cursor: -1, turn: page.tree.to_play};
  const cells = new Map(p.moves.map((m) => [m[0], m[2]]));
  const shown = side === 0 ? page.shown || page.pinned : null;
  const hovered = targetOf(page.hover);
  return {
    game: state.game, pieces: p.pieces, text: p.text, last: p.last, turn: p.to_play, cursor: side === 0 ? page.cursor : -1,
    selected: page.selected, starts: startsShown(),
    marks: shown ? [] : marks(report, cells),
    ownership: page.own && state.game.ownership && report ? report.ownership : null,
    ghosts: shown ? variation(shown, cells) : hovered >= 0 && canPlay() ? [{cell: hovered, side: p.to_play}] : [],
  };
}

function marks(report, cells) {
  if (!report || page.overlay === "off" || report.node !== page.state.node || page.state.position.over) return [];
  if (!page.state.analysis.on && page.state.thinking < 0) return [];
  const side = page.state.position.to_play, out = [];
  const best = Math.max(1, ...report.moves.map((m) => m.visits));
  const merged = new Map();
  for (const m of report.moves) {
    const cell = cells.get(m.action);
    if (cell === undefined || cell < 0) continue;
    const had = merged.get(cell);
    merged.set(cell, had ? {...had, prior: had.prior + m.prior, visits: had.visits + m.visits} : {...m, cell, first: m});
  }
  for (const m of merged.values()) {
    if (page.overlay === "policy" || report.visits === 0) {
      if (m.prior >= HEAT_LEAST) out.push({cell: m.cell, heat: Math.min(1, 1.2 * Math.sqrt(m.prior)), top: m.prior >= 0.01 ? String(Math.round(m.prior * 100)) : ""});
    } else if (m.visits > 0) {
      if (m.visits < 2 && best > 8 || report.moves.indexOf(m.first) >= CANDIDATES) continue;
      out.push({cell: m.cell, share: m.visits / best, best: m.action === report.moves[0].action, top: percent(winrate(m.value, side)).replace("%", ""), bottom: many(m.visits)});
    }
  }
  return out;
}

function variation(move, cells) {
  const {state} = page, shape = state.game.shape, out = [], taken = new Set();
  let side = state.position.to_play;
  move.pv.forEach((action, n) => {
    const cell = n === 0 ? cells.get(action) : shape === "go" || state.game.places.length === state.position.pieces.length && cells.get(action);
    const place = typeof cell === "number" ? cell : shape === "go" && action < state.game.places.length ? action : -1;
    if (place >= 0 && !taken.has(place) && shape !== "columns" && !state.position.pieces[place]) out.push({cell: place, side, text: String(n + 1)});
    if (shape === "columns") { const c = falls(action, taken); if (c >= 0) { taken.add(c); out.push({cell: c, side, text: String(n + 1)}); } }
    taken.add(place);
    side = 1 - side;
  });
  return out;
}

function falls(column, taken) {
  const {places} = page.state.game, pieces = page.state.position.pieces;
  const cells = places.map((p, c) => [p, c]).filter(([p]) => p[0] === column).sort((a, b) => b[0][1] - a[0][1]);
  const free = cells.find(([, c]) => !pieces[c] && !taken.has(c));
  return free ? free[1] : -1;
}
function drawPlayers() {
  const {state} = page, p = state.position, value = shownValue();
  state.seats.forEach((seat, side) => {
    const who = seat.who === "human" ? "you" : labelOf(seat.net);
    const how = seat.who === "human" ? "" : `${many(seat.sims)} sims${seat.strength < 5 ? ", " + STRENGTH[seat.strength] : ""}`;
    const win = value === null ? "" : percent(winrate(value, side));
    $(`seat-${side}`).className = `seat${!p.over && p.to_play === side ? " turn" : ""}${state.thinking === side ? " thinking" : ""}`;
    $(`seat-${side}`).innerHTML = `${stone(side)}<div><b>${esc(state.game.sides[side])}</b><span>${esc(who)}${how ? ` · ${how}` : ""}</span></div><strong>${win}</strong>`;
  });
  $("bar").hidden = value === null;
  $("bar").className = `theme-${themeOf(state.game)}`;
  if (value !== null) $("bar").firstElementChild.style.width = `${((value + 1) * 50).toFixed(1)}%`;
  const report = page.reports[0];
  const lead = state.game.ownership && report && report.score !== null && !p.over ? `, lead ${Math.abs(report.score).toFixed(1)} for ${state.game.sides[report.score >= 0 ? 0 : 1]}` : "";
  $("status").textContent = page.edit ? "Put stones on the board, then play from there." : p.result ? capital(p.result) :
    state.thinking >= 0 ? `${capital(state.game.sides[state.thinking])} thinks${report ? `: ${many(report.visits)} visits` : slow ? "; a game's first search is compiled, up to a minute" : ""}` : `${capital(state.game.sides[p.to_play])} to move${lead}`;
}

function shownValue() {
  const {state} = page, node = page.nodes[state.node], p = state.position;
  if (p.over && p.result) return p.result.startsWith("a draw") ? 0 : p.result.startsWith(state.game.sides[0]) ? 1 : -1;
  if (page.reports[0]) return page.reports[0].value;
  for (let n = node; n; n = page.nodes[n.parent]) if (n.value !== null) return n.value;
  return null;
}

function drawControls() {
  const {state} = page, p = state.position, shown = page.nodes[state.node].depth, editing = Boolean(page.edit);
  $("ply").textContent = `${shown} / ${page.line.length}`;
  $("first").disabled = $("back").disabled = editing || shown === 0;
  $("on").disabled = $("last").disabled = editing || shown === page.line.length;
  $("undo").disabled = editing || shown === 0;
  $("pass").hidden = state.game.pass < 0 && !passMove();
  $("pass").disabled = editing || !passMove();
  $("resign").disabled = editing || p.over;
  const engines = state.seats.filter((s) => s.who === "net").length;
  $("run").hidden = engines === 0;
  $("run").disabled = editing || p.over;
  const goes = state.run && !p.over && (engines === 2 || state.thinking >= 0);
  $("run").innerHTML = `<svg><use href="#i-${goes ? "pause" : "play"}"/></svg><span>${goes ? "Pause" : engines === 2 ? "Play" : "Net moves"}</span>`;
  $("run").classList.toggle("strong", !goes && !p.over && engines === 2);
  $("editor").hidden = !editing;
  $("controls").hidden = editing;
  $("edit").disabled = !state.game.setup;
  $("edit").setAttribute("aria-pressed", editing);
}

// Moves that have no place on the board of their own, as buttons.
function drawChoices() {
  const {state} = page, p = state.position;
  const rest = p.moves.filter((m) => m[2] < 0 && m[0] !== state.game.pass && m[1].toLowerCase() !== "pass");
  const box = $("choices");
  box.hidden = rest.length === 0 || Boolean(page.edit);
  const key = rest.map((m) => m[1]).join("|");
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.innerHTML = rest.map((m) => `<button data-action="${m[0]}">${esc(m[1])}</button>`).join("");
  for (const b of box.children) b.onclick = () => play(Number(b.dataset.action));
}

function drawAnalysis() {
  const {state} = page, report = page.reports[0], p = state.position;
  const values = [0, ...page.line].map((n) => page.nodes[n]).map((n) => ({node: n.number, ply: n.depth, value: n.value}));
  drawCurve($("curve"), values, page.line.length, page.nodes[state.node].depth, capital(state.game.sides[0]), goto);
  const shown = page.shown || page.pinned;
  $("candidates").setAttribute("aria-busy", state.analysis.on && !(report && report.ended));
  $("candidates").dataset.nets = page.asked;
  drawCandidates($("candidates").tBodies[0], p.over ? null : report, p.to_play, shown ? shown.action : -1, {
    empty: p.over ? "The game is over." : state.analysis.on ? (slow ? "Thinking… A game's first search is compiled, up to a minute." : "Thinking…") : "Turn the analysis on to see what the net thinks.",
    play,
    show: (move, pin) => {
      if (pin) page.pinned = page.pinned && move && page.pinned.action === move.action ? null : move;
      else page.shown = move;
      drawBoardsOnly();
    },
  });
  drawPv();
}

function drawPv() {
  const report = page.reports[0], move = page.shown || page.pinned || (report && report.moves[0]);
  $("pv").innerHTML = move && report && report.visits > 0 ? `<span>${page.shown || page.pinned ? "Line" : "Best line"}</span> ${move.pv_text.map(esc).join(" ")}` : "";
}

function drawBoardsOnly() {
  board.draw(view(0, false));
  drawPv();
  const shown = page.shown || page.pinned;
  for (const row of $("candidates").tBodies[0].rows) row.classList.toggle("shown", Boolean(shown) && Number(row.querySelector("[data-play]")?.dataset.play) === shown.action);
}

function drawTreeTab() {
  $("tree-up").disabled = page.treeTexts.length === 0;
  $("tree-side").hidden = !page.state.analysis.beside;
  for (const b of $("tree-side").children) b.setAttribute("aria-pressed", Number(b.dataset.side) === page.treeSide);
  drawTree({path: $("tree-path"), body: $("tree").tBodies[0], note: $("tree-note")}, page.tree, page.treeTexts, page.state.game.sides, walk);
}
