// The page begins here: keys, clicks, and the first connection.

import {draw, later} from "./drawing.js";
import {THEMES, analyse, fillFields, load, openNew, overlay, setTab, startNew, theme} from "./fields.js";
import {onCell, passMove, play, runEngines, startEdit, step, walk} from "./moves.js";
import {$, page} from "./page.js";
import {connect, say, socket} from "./server.js";

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

$("keys").innerHTML = KEYS.filter((k) => k[1]).map(([keys, text]) => `<div><dt>${keys.split(" ").map((k) => `<kbd>${k}</kbd>`).join(" ")}</dt><dd>${text}</dd></div>`).join("");
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
