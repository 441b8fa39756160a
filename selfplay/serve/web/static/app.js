// The page: one websocket, the state that the server sends, and what follows from a click or a key.

import {Board, themeOf} from "./board.js";
import {drawCandidates, drawCurve, drawMoves, drawTree, esc, many, percent, winrate} from "./panels.js";

const $ = (id) => document.getElementById(id);
const MOST_BYTES = 900_000; // of a file; the server takes messages of 1 MiB
const SIMS = [[0, "0: policy alone"], [16, "16"], [50, "50"], [100, "100"], [200, "200"], [400, "400"], [1000, "1,000"], [4000, "4,000"], [20000, "20,000"]];
const STRENGTH = ["", "beginner", "easy", "medium", "strong", "full"];
const HEAT_LEAST = 0.004;
const CANDIDATES = 9; // moves with numbers on the board

const page = {
  state: null, reports: {}, games: null, tab: "analysis", overlay: "visits", own: false,
  shown: null, pinned: null, selected: -1, hover: -1, cursor: -1, edit: null, tree: null, treeTexts: [], treeSide: 0,
  line: [], nodes: [],
};
let socket = null, tries = 0, slow = false, patience = 0;

// ------------------------------------------------------------------------------- the server

function connect() {
  socket = new WebSocket(`ws://${location.host}/ws`);
  socket.onopen = () => {
    tries = 0;
    $("banner").hidden = true;
    const words = new URLSearchParams(location.search), hash = location.hash.slice(1);
    say({do: "hello", table: hash || null, game: page.state ? page.state.game.name : words.get("game"), net: words.get("net")});
  };
  socket.onmessage = (e) => hear(JSON.parse(e.data));
  socket.onclose = (e) => {
    if (e.code === 1009) toast("That was more than the server takes (1 MiB).", true);
    tries += 1;
    if (tries > 2) banner("The server has stopped. Start it again with: selfplay play");
    setTimeout(connect, Math.min(4000, 250 * 2 ** tries));
  };
}

function say(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  else toast("Not connected to the server.", true);
}

const HEARD = {
  games: (m) => { page.games = m; fillGames(); $("about").textContent = `selfplay ${m.version}. All of it runs on this machine.`; },
  state: (m) => onState(m),
  report: (m) => { if (page.state && m.node === page.state.node) { page.reports[m.side] = m; note(m); later(); } },
  value: (m) => { note({...m, side: 0}); later(); },
  tree: (m) => { page.tree = m; draw(); },
  file: (m) => download(m.name, m.text),
  notice: (m) => toast(m.text, false),
  error: (m) => { toast(m.text, true); if (m.of === "tree") { page.tree = null; page.treeTexts = []; draw(); } },
};
function hear(message) { (HEARD[message.is] || (() => {}))(message); }

// Reports change the values that nodes have.
function note(report) {
  const node = page.nodes[report.node];
  if (report.side === 0 && node && report.visits >= node.visits) Object.assign(node, {value: report.value, score: report.score, visits: report.visits});
}

function onState(state) {
  const before = page.state;
  page.state = state;
  if (location.hash.slice(1) !== state.table) history.replaceState(null, "", `${location.pathname}#${state.table}`);
  page.nodes = state.nodes.map(([number, parent, text, value, score, visits, side]) => ({number, parent, text, value, score, visits, side}));
  const other = !before || before.table !== state.table || before.begun !== state.begun;
  for (const n of page.nodes) n.depth = n.parent < 0 ? 0 : page.nodes[n.parent].depth + 1;
  if (other) { page.line = []; page.edit = null; page.reports = {}; fillNets(); }
  if (other || before.node !== state.node) Object.assign(page, {reports: {}, shown: null, pinned: null, selected: -1, tree: null, treeTexts: []});
  if (JSON.stringify(before && before.nets) !== JSON.stringify(state.nets)) fillNets();
  lineThrough(state.node);
  slow = false;
  clearTimeout(patience);
  patience = setTimeout(() => { slow = true; later(); }, 4000);
  document.title = `${title(state.game.name)} · selfplay`;
  fillFields();
  draw();
}

// The line that the move list shows: through the shown node, and on as it went before.
function lineThrough(at) {
  const path = [];
  for (let n = at; n > 0; n = page.nodes[n].parent) path.unshift(n);
  if (!(path.every((n, k) => page.line[k] === n))) page.line = path;
  const next = () => {
    const last = page.line.length ? page.line[page.line.length - 1] : 0;
    return page.nodes.find((n) => n.parent === last);
  };
  for (let n = next(); n; n = next()) page.line.push(n.number);
}

// ------------------------------------------------------------------------------- drawing

let waiting = false;
function later() { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } }

function draw() {
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

function stone(side) { return `<i class="dot big s${side} theme-${themeOf(page.state.game)}"></i>`; }

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
  const goes = state.run && (engines === 2 || state.thinking >= 0);
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
  $("candidates").setAttribute("aria-busy", Boolean(report && !report.ended));
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

// ------------------------------------------------------------------------------- moves

const canPlay = () => {
  const {state} = page, p = state.position;
  return !p.over && !page.edit && state.thinking < 0 && !(page.tab === "tree" && page.treeTexts.length);
};
const passMove = () => page.state.position.moves.find((m) => m[0] === page.state.game.pass || m[1].toLowerCase() === "pass");
const goto = (node) => say({do: "goto", node});

function play(action) {
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
function targetOf(cell) {
  if (cell < 0) return -1;
  const found = movesTo(cell);
  return found.length && found[0][3] < 0 ? found[0][2] : -1;
}

function startsShown() {
  const {state} = page, {moves} = state.position;
  if (page.selected >= 0) return [...new Set(moves.filter((m) => m[3] === page.selected).map((m) => m[2]))];
  return themeOf(state.game) === "felt" && canPlay() ? moves.map((m) => m[2]).filter((c) => c >= 0) : [];
}

function onCell(cell) {
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

function step(by) {
  if (page.edit || !page.state) return;
  const at = page.nodes[page.state.node].depth + by, all = [0, ...page.line];
  goto(all[Math.max(0, Math.min(all.length - 1, at))]);
}

function walk(path, texts) {
  page.treeTexts = texts;
  say({do: "tree", path, side: page.treeSide});
}

// ------------------------------------------------------------------------------- editing

function startEdit() {
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

// ------------------------------------------------------------------------------- fields

function labelOf(words) {
  const found = page.state.nets.find((n) => n[0] === words);
  return found ? found[1] : words;
}
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
function title(name) {
  const bare = name.replace("openspiel:", ""), sized = bare.match(/^([a-z]+)(\d+)x(\d+)(.*)$/);
  if (sized) return `${capital(sized[1])} ${sized[2]}×${sized[3]}${sized[4] ? " " + sized[4] : ""}`;
  return {tictactoe: "Tic-tac-toe", connect4: "Connect Four", dotsandboxes: "Dots and Boxes", mnk: "m,n,k", y: "Y"}[bare] || capital(bare.split("_").join(" "));
}

function fillGames() {
  const {native, openspiel} = page.games;
  const options = (names) => names.map((n) => `<option value="${esc(n)}">${esc(title(n))}</option>`).join("");
  $("new-game").innerHTML = `<optgroup label="Native">${options(native)}</optgroup><optgroup label="OpenSpiel">${options(openspiel)}</optgroup>`;
  $("keys").innerHTML = KEYS.filter((k) => k[1]).map(([keys, text]) => `<div><dt>${keys.split(" ").map((k) => `<kbd>${k}</kbd>`).join(" ")}</dt><dd>${text}</dd></div>`).join("");
}

function fillNets() {
  const options = page.state.nets.map(([w, l]) => `<option value="${esc(w)}">${esc(l)}</option>`).join("");
  const sims = SIMS.map(([n, t]) => `<option value="${n}">${t}</option>`).join("");
  $("net").innerHTML = options;
  $("beside-net").innerHTML = `<option value="">nobody</option>${options}`;
  $("sims").innerHTML = `${SIMS.slice(1).map(([n, t]) => `<option value="${n}">${t}</option>`).join("")}<option value="0">no end</option>`;
  $("tab-seats").innerHTML = [0, 1].map((side) => `<fieldset><legend>${stone(side)} ${esc(capital(page.state.game.sides[side]))}</legend>
    <label>Who<select data-seat="${side}" data-key="who"><option value="human">a human</option>${options}</select></label>
    <label class="if-net">Simulations<select data-seat="${side}" data-key="sims">${sims}</select></label>
    <label class="if-net">Strength <output></output><input type="range" min="1" max="5" step="1" data-seat="${side}" data-key="strength"></label></fieldset>`).join("") +
    `<p class="note">Two humans share the board. With two nets, press Play.</p>`;
  for (const field of $("tab-seats").querySelectorAll("[data-seat]")) field.onchange = sendSeats;
  $("game-name").textContent = title(page.state.game.name);
  $("game-name").title = page.state.game.rules;
}

function choice(select, value) {
  if (![...select.options].some((o) => o.value === String(value))) select.add(new Option(typeof value === "number" ? value.toLocaleString("en") : value, value));
  select.value = String(value);
}

function fillFields() {
  const {analysis, seats} = page.state;
  $("analysis-on").checked = analysis.on;
  choice($("net"), analysis.net);
  choice($("sims"), analysis.sims);
  choice($("beside-net"), analysis.beside);
  $("ownership").hidden = !page.state.game.ownership;
  seats.forEach((seat, side) => {
    const field = (key) => $("tab-seats").querySelector(`[data-seat="${side}"][data-key="${key}"]`);
    choice(field("who"), seat.who === "human" ? "human" : seat.net);
    choice(field("sims"), seat.who === "human" ? 200 : seat.sims);
    field("strength").value = seat.who === "human" ? 5 : seat.strength;
    field("strength").parentElement.querySelector("output").textContent = STRENGTH[field("strength").value];
    for (const label of field("who").closest("fieldset").querySelectorAll(".if-net")) label.hidden = seat.who === "human";
  });
  for (const b of $("overlay").children) b.setAttribute("aria-pressed", b.dataset.overlay === page.overlay);
  $("ownership").setAttribute("aria-pressed", page.own);
}

function seatOf(side) {
  const field = (key) => $("tab-seats").querySelector(`[data-seat="${side}"][data-key="${key}"]`).value;
  return field("who") === "human" ? {who: "human"} : {who: "net", net: field("who"), sims: Number(field("sims")), strength: Number(field("strength"))};
}
function sendSeats() {
  const seats = [seatOf(0), seatOf(1)];
  say({do: "seats", seats, run: page.state.run && seats.some((s) => s.who === "human")});
}

function analyse(change) {
  const a = Object.assign(page.state.analysis, change);
  say({do: "analyse", on: a.on, net: a.net, sims: a.sims, beside: a.beside});
}

function setTab(name) {
  page.tab = name;
  for (const b of document.querySelectorAll("[data-tab]")) b.setAttribute("aria-selected", b.dataset.tab === name);
  for (const tab of document.querySelectorAll(".tab")) tab.hidden = tab.id !== `tab-${name}`;
  if (name === "tree" && page.state) walk([], []);
  draw();
}

function overlay(name) { page.overlay = name; fillFields(); draw(); }

// ------------------------------------------------------------------------------- dialogs

const MODES = [["first", "I begin"], ["second", "the net begins"], ["both", "two humans"], ["nets", "two nets"]];
let mode = "first";

function openNew() {
  if (!page.games || !page.state) return;
  $("new-mode").innerHTML = MODES.map(([m, t]) => `<button type="button" data-mode="${m}" aria-pressed="${m === mode}">${t}</button>`).join("");
  for (const b of $("new-mode").children) b.onclick = () => { mode = b.dataset.mode; for (const o of $("new-mode").children) o.setAttribute("aria-pressed", o === b); };
  const name = page.state.game.name, listed = [...$("new-game").options].some((o) => o.value === name);
  if (listed) $("new-game").value = name;
  $("new-own").value = listed ? "" : name;
  $("new-note").textContent = "Nets, simulations and strength are under Players.";
  $("new-dialog").showModal();
}

function startNew() {
  const game = $("new-own").value.trim() || $("new-game").value, same = game === page.state.game.name;
  const had = page.state.seats.find((s) => s.who === "net");
  const net = {who: "net", net: same && had ? had.net : "", sims: had ? had.sims : 200, strength: had ? had.strength : 5};
  const human = {who: "human"};
  say({do: "new", game, seats: {first: [human, net], second: [net, human], both: [human, human], nets: [net, {...net}]}[mode]});
}

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/plain"}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function load(file) {
  if (!file) return;
  if (file.size > MOST_BYTES) return toast(`${file.name} is too large: a game of at most ${MOST_BYTES / 1000} kB is wanted.`, true);
  file.text().then((text) => say({do: "load", text}));
}

function toast(text, bad) {
  const item = document.createElement("div");
  item.className = `toast${bad ? " bad" : ""}`;
  item.textContent = text;
  $("toasts").append(item);
  while ($("toasts").children.length > 4) $("toasts").firstElementChild.remove();
  setTimeout(() => item.remove(), 7000);
}
function banner(text) { $("banner").textContent = text; $("banner").hidden = false; }

const THEMES = ["auto", "light", "dark"];
function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  $("theme").dataset.theme = name;
  $("theme").title = `Colours: ${name} (D)`;
  try { localStorage.setItem("theme", name); } catch { /* private windows keep nothing */ }
}

// ------------------------------------------------------------------------------- keys

const cycle = (list, now) => list[(list.indexOf(now) + 1) % list.length];
const KEYS = [
  ["← →", "back and on", {ArrowLeft: () => step(-1), ArrowRight: () => step(1)}],
  ["Home End", "first and last position", {Home: () => step(-9999), End: () => step(9999)}],
  ["Space", "analysis on and off", {" ": () => analyse({on: !page.state.analysis.on})}],
  ["H", "policy, visits, or nothing on the board", {h: () => overlay(cycle(["off", "policy", "visits"], page.overlay))}],
  ["O", "territory", {o: () => $("ownership").click()}],
  ["U", "take back", {u: () => $("undo").click()}],
  ["P", "pass", {p: () => $("pass").click()}],
  ["R", "resign", {r: () => $("resign").click()}],
  ["Enter", "let the net move, or pause", {Enter: () => $("run").hidden || $("run").click()}],
  ["N", "new game", {n: openNew}],
  ["L", "load", {l: () => $("file").click()}],
  ["S", "save", {s: () => say({do: "save"})}],
  ["E", "edit the position", {e: startEdit}],
  ["D", "light or dark", {d: () => theme(cycle(THEMES, $("theme").dataset.theme))}],
  ["1 2 3 4", "analysis, moves, tree, players", {1: () => setTab("analysis"), 2: () => setTab("moves"), 3: () => setTab("tree"), 4: () => setTab("seats")}],
  ["?", "this list", {"?": () => $("help-dialog").showModal()}],
  ["Tab", "to the board: arrows move a cursor there, Enter plays, Esc leaves"],
];
const BY_KEY = Object.assign({}, ...KEYS.map((k) => k[2] || {}));

document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || !page.state || document.querySelector("dialog[open]")) return;
  if (e.key === "Escape") { $("menu").hidden = true; page.selected = page.cursor = -1; if (page.edit) page.edit = null; document.activeElement.blur(); return draw(); }
  const field = e.target.matches("input:not([type=checkbox]), select, textarea");
  if (field && !e.target.closest("dialog")) return; // one in a dialog that has just closed is none
  if (e.target.id === "board" && onBoardKey(e)) return e.preventDefault();
  if (e.target.matches("button, [type=checkbox], tr") && (e.key === "Enter" || e.key === " ")) return;
  const act = BY_KEY[e.key.length === 1 ? e.key.toLowerCase() : e.key];
  if (act) { e.preventDefault(); act(); }
});

const MOVES = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
function onBoardKey(e) {
  const {places} = page.state.game;
  if (!places.length) return false;
  if (e.key === "Enter" && page.cursor >= 0) { onCell(page.cursor); return true; }
  const by = MOVES[e.key];
  if (!by) return false;
  if (page.cursor < 0) page.cursor = Math.floor(places.length / 2);
  else {
    const [x, y] = places[page.cursor];
    let best = -1, least = 1.3;
    places.forEach(([px, py], c) => {
      const along = (px - x) * by[0] + (py - y) * by[1], off = Math.abs((px - x) * by[1]) + Math.abs((py - y) * by[0]);
      if (along > 0.3 && along + off < least + 0.3 && along + 2 * off < least + 0.3) { least = along + 2 * off; best = c; }
    });
    if (best >= 0) page.cursor = best;
  }
  page.hover = page.cursor;
  draw();
  return true;
}

// ------------------------------------------------------------------------------- begin

const board = new Board($("board"), onCell, (cell) => { page.hover = cell; later(); });
const besideBoard = new Board($("beside"), onCell, (cell) => { page.hover = cell; later(); });
$("board").addEventListener("blur", () => { page.cursor = page.hover = -1; later(); });

const CLICKS = {
  new: openNew, "game-name": openNew, load: () => $("file").click(), save: () => say({do: "save"}), edit: startEdit,
  theme: () => theme(cycle(THEMES, $("theme").dataset.theme)), help: () => $("help-dialog").showModal(),
  first: () => step(-9999), back: () => step(-1), on: () => step(1), last: () => step(9999),
  undo: () => say({do: "undo"}), pass: () => { const m = passMove(); if (m) play(m[0]); }, resign: () => say({do: "resign"}),
  run: () => { const {state} = page, goes = state.run && (state.thinking >= 0 || state.seats.every((s) => s.who === "net")); runEngines(!goes); },
  ownership: () => { page.own = !page.own; fillFields(); draw(); if (page.own && !page.state.analysis.on) analyse({on: true}); },
  "tree-up": () => walk(page.tree ? page.tree.path.slice(0, -1) : [], page.treeTexts.slice(0, -1)),
  "editor-clear": () => { page.edit.stones.fill(0); draw(); },
  "editor-cancel": startEdit,
  "editor-done": () => { say({do: "setup", stones: page.edit.stones, to_play: Number($("editor-turn").value)}); },
  "new-go": startNew,
};
for (const [id, act] of Object.entries(CLICKS)) $(id).addEventListener("click", act);

// In a game with one human, the net makes the move of whoever is to move.
function runEngines(run) {
  const {state} = page, seats = state.seats.map((s) => ({...s})), side = state.position.to_play;
  if (run && seats[side].who === "human") { say({do: "seats", seats: [seats[1], seats[0]], run}); return; }
  say({do: "seats", seats, run});
}

$("file").onchange = () => { load($("file").files[0]); $("file").value = ""; };
$("analysis-on").onchange = () => analyse({on: $("analysis-on").checked});
$("net").onchange = () => analyse({net: $("net").value});
$("sims").onchange = () => analyse({sims: Number($("sims").value)});
$("beside-net").onchange = () => analyse({beside: $("beside-net").value, on: page.state.analysis.on || $("beside-net").value !== ""});
$("editor-turn").onchange = () => { page.edit.turn = Number($("editor-turn").value); draw(); };
for (const b of $("overlay").children) b.onclick = () => overlay(b.dataset.overlay);
for (const b of $("tree-side").children) b.onclick = () => { page.treeSide = Number(b.dataset.side); walk([], []); };
for (const b of document.querySelectorAll("[data-tab]")) b.onclick = () => setTab(b.dataset.tab);
// A mouse leaves the keyboard to the page: Space is not for the button that was clicked last.
let byMouse = false;
document.addEventListener("mousedown", (e) => {
  byMouse = true;
  if (e.target.closest("button") && !e.target.closest("dialog")) e.preventDefault();
});
document.addEventListener("keydown", () => { byMouse = false; }, true);
document.addEventListener("change", (e) => { if (byMouse && !e.target.closest("dialog")) e.target.blur(); });
document.addEventListener("dragover", (e) => e.preventDefault());
document.addEventListener("drop", (e) => { e.preventDefault(); load(e.dataTransfer.files[0]); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && socket.readyState === WebSocket.CLOSED) connect(); });
addEventListener("hashchange", () => { if (page.state && location.hash.slice(1) !== page.state.table) say({do: "hello", table: location.hash.slice(1) || null, game: null, net: null}); });
let stored = "auto";
try { stored = localStorage.getItem("theme") || "auto"; } catch { /* as above */ }
theme(THEMES.includes(stored) ? stored : "auto");
setTab("analysis");
connect();
