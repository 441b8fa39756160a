// The websocket: what is said to the server, and what follows from what it says.

import {draw, later} from "./drawing.js";
import {fillFields, fillGames, fillNets} from "./fields.js";
import {treeSide, walk} from "./moves.js";
import {$, banner, page, title, toast} from "./page.js";

export let socket = null, tries = 0, slow = false, patience = 0;

export function connect() {
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

export function say(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  else toast("Not connected to the server.", true);
}

const HEARD = {
  games: (m) => { page.games = m; fillGames(); $("about").textContent = `selfplay ${m.version}. All of it runs on this machine.`; },
  state: (m) => onState(m),
  report: (m) => {
    if (!page.state || m.node !== page.state.node) return;
    page.reports[m.side] = m;
    note(m);
    const analysed = page.state.analysis.on && page.state.thinking < 0; // a seat's search is not walked
    if (page.tab === "tree" && !page.tree && analysed && m.side === treeSide()) walk([], []);
    later();
  },
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
  const nets = `${state.analysis.net}|${state.analysis.beside}`;
  if (nets !== page.asked) Object.assign(page, {asked: nets, reports: {}, shown: null, pinned: null, tree: null, treeTexts: []});
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

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/plain"}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
