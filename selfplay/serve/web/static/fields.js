// Fields and dialogs: nets, seats, analysis, tabs, new games, files, colours.

import {draw} from "./drawing.js";
import {walk} from "./moves.js";
import {$, STRENGTH, capital, page, stone, title, toast} from "./page.js";
import {esc} from "./panels.js";
import {say} from "./server.js";

const SIMS = [[0, "0: policy alone"], [16, "16"], [50, "50"], [100, "100"], [200, "200"], [400, "400"], [1000, "1,000"], [4000, "4,000"], [20000, "20,000"]];
const MOST_BYTES = 900_000; // of a file; the server takes messages of 1 MiB

export function fillGames() {
  const {native, openspiel} = page.games;
  const options = (names) => names.map((n) => `<option value="${esc(n)}">${esc(title(n))}</option>`).join("");
  $("new-game").innerHTML = `<optgroup label="Native">${options(native)}</optgroup><optgroup label="OpenSpiel">${options(openspiel)}</optgroup>`;
}

export function fillNets() {
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

export function fillFields() {
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

export function analyse(change) {
  const a = Object.assign(page.state.analysis, change);
  say({do: "analyse", on: a.on, net: a.net, sims: a.sims, beside: a.beside});
}

export function setTab(name) {
  page.tab = name;
  for (const b of document.querySelectorAll("[data-tab]")) b.setAttribute("aria-selected", b.dataset.tab === name);
  for (const tab of document.querySelectorAll(".tab")) tab.hidden = tab.id !== `tab-${name}`;
  if (name === "tree" && page.state) walk([], []);
  draw();
}

export function overlay(name) { page.overlay = name; fillFields(); draw(); }

// ------------------------------------------------------------------------------- dialogs

const MODES = [["first", "I begin"], ["second", "the net begins"], ["both", "two humans"], ["nets", "two nets"]];
let mode = "first";

export function openNew() {
  if (!page.games || !page.state) return;
  $("new-mode").innerHTML = MODES.map(([m, t]) => `<button type="button" data-mode="${m}" aria-pressed="${m === mode}">${t}</button>`).join("");
  for (const b of $("new-mode").children) b.onclick = () => { mode = b.dataset.mode; for (const o of $("new-mode").children) o.setAttribute("aria-pressed", o === b); };
  const name = page.state.game.name, listed = [...$("new-game").options].some((o) => o.value === name);
  if (listed) $("new-game").value = name;
  $("new-own").value = listed ? "" : name;
  $("new-note").textContent = "Nets, simulations and strength are under Players.";
  $("new-dialog").showModal();
}

export function startNew() {
  const game = $("new-own").value.trim() || $("new-game").value, same = game === page.state.game.name;
  const had = page.state.seats.find((s) => s.who === "net");
  const net = {who: "net", net: same && had ? had.net : "", sims: had ? had.sims : 200, strength: had ? had.strength : 5};
  const human = {who: "human"};
  say({do: "new", game, seats: {first: [human, net], second: [net, human], both: [human, human], nets: [net, {...net}]}[mode]});
}

export function load(file) {
  if (!file) return;
  if (file.size > MOST_BYTES) return toast(`${file.name} is too large: a game of at most ${MOST_BYTES / 1000} kB is wanted.`, true);
  file.text().then((text) => say({do: "load", text}));
}

export const THEMES = ["auto", "light", "dark"];
export function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  $("theme").dataset.theme = name;
  $("theme").title = `Colours: ${name} (D)`;
  try { localStorage.setItem("theme", name); } catch { /* private windows keep nothing */ }
}
