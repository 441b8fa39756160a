// What the page knows, and what every part of it uses: names, stones, messages at its foot.

import {themeOf} from "./board.js";

export const $ = (id) => document.getElementById(id);
export const STRENGTH = ["", "beginner", "easy", "medium", "strong", "full"];

export const page = {
  state: null, reports: {}, games: null, tab: "analysis", overlay: "visits", own: false,
  shown: null, pinned: null, selected: -1, hover: -1, cursor: -1, edit: null, tree: null, treeTexts: [], treeSide: 0,
  line: [], nodes: [], asked: "", // asked: the nets whose reports these are
};

export function labelOf(words) {
  const found = page.state.nets.find((n) => n[0] === words);
  return found ? found[1] : words;
}
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export function title(name) {
  const bare = name.replace("openspiel:", ""), sized = bare.match(/^([a-z]+)(\d+)x(\d+)(.*)$/);
  if (sized) return `${capital(sized[1])} ${sized[2]}×${sized[3]}${sized[4] ? " " + sized[4] : ""}`;
  return {tictactoe: "Tic-tac-toe", connect4: "Connect Four", dotsandboxes: "Dots and Boxes", mnk: "m,n,k", y: "Y"}[bare] || capital(bare.split("_").join(" "));
}

export function stone(side) { return `<i class="dot big s${side} theme-${themeOf(page.state.game)}"></i>`; }

export function toast(text, bad) {
  const item = document.createElement("div");
  item.className = `toast${bad ? " bad" : ""}`;
  item.textContent = text;
  $("toasts").append(item);
  while ($("toasts").children.length > 4) $("toasts").firstElementChild.remove();
  setTimeout(() => item.remove(), 7000);
}
export function banner(text) { $("banner").textContent = text; $("banner").hidden = false; }
