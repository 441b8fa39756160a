// Draws one position as SVG. Knows nothing of the server: all that it shows is handed to it.
//
// view: {game, pieces, text, last, marks, ownership, ghosts, selected, starts, cursor, label}
//   marks: [{cell, share, strong, top, bottom, best}]   ghosts: [{cell, side, text}]

const U = 40; // units of a cell's side
const HEX = Math.sqrt(3) / 2;
const CHESS = {K: "♚", Q: "♛", R: "♜", B: "♝", N: "♞", P: "♟"};
const X_AND_O = new Set(["tictactoe", "openspiel:tic_tac_toe", "openspiel:ultimate_tic_tac_toe"]);

/** How a game's stones and ground look. */
export function themeOf(game) {
  const name = game.name.replace("openspiel:", "").split("(")[0];
  if (game.shape === "go" || name.includes("gomoku")) return "go";
  if (name.startsWith("othello")) return "felt";
  if (["chess", "antichess", "crazyhouse", "checkers", "breakthrough"].includes(name)) return "chequer";
  if (game.shape === "columns" || name.startsWith("connect")) return "connect";
  return "flat";
}

const esc = (text) => String(text).replace(/[&<>"]/g, (c) => ({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})[c]);

export class Board {
  /** onCell(cell), onHover(cell or -1) */
  constructor(svg, onCell, onHover) {
    this.svg = svg;
    this.key = "";
    this.touch = -1; // a cell that was touched once on a dense board
    svg.addEventListener("mousedown", (e) => e.preventDefault()); // the arrows stay those of the page
    svg.addEventListener("pointermove", (e) => e.pointerType === "mouse" && this.hover(cellOf(e)));
    svg.addEventListener("pointerleave", () => this.hover(-1));
    svg.addEventListener("click", (e) => {
      const cell = cellOf(e);
      if (cell < 0) return;
      const dense = this.cellPixels() < 26 && e.pointerType === "touch";
      if (dense && this.touch !== cell) { this.touch = cell; this.hover(cell); return; }
      this.touch = -1;
      onCell(cell);
    });
    this.onHover = onHover;
    this.at = -1;
  }

  cellPixels() {
    return this.svg.getBoundingClientRect().width / (this.box ? this.box[2] : 1) * U;
  }

  hover(cell) {
    if (cell === this.at) return;
    this.at = cell;
    this.onHover(cell);
  }

  x(cell) { return this.places[cell][0] * U; }
  y(cell) { return this.places[cell][1] * U * (this.hex ? HEX : 1); }

  draw(view) {
    const game = view.game;
    if (game.shape === "text") return this.drawText(view);
    const key = game.name + game.places.length;
    if (key !== this.key) this.ground(game, key);
    const layer = (name, parts) => { this.svg.querySelector(`.${name}`).innerHTML = parts.join(""); };
    layer("stones", view.pieces.map((piece, c) => piece ? this.piece(c, piece) : ""));
    layer("own", (view.ownership || []).map((o, c) => Math.abs(o) < 0.1 || view.pieces[c] === (o > 0 ? "0" : "1") ? "" :
      this.square(c, 0.12 + 0.13 * Math.abs(o), `o${o > 0 ? 0 : 1}`, Math.min(1, 0.2 + Math.abs(o) * 0.75))));
    layer("last", (view.last || []).map((c, n, all) => this.lastMark(c, view.pieces[c], n < all.length - 1)));
    layer("marks", (view.marks || []).map((m) => this.mark(m)));
    layer("ghosts", (view.ghosts || []).map((g) => `<g class="ghost">${this.piece(g.cell, String(g.side))}${g.text ? this.text(g.cell, g.text, `n${g.side}`, 0.4) : ""}</g>`));
    layer("select", [
      ...(view.starts || []).map((c) => this.ring(c, "start")),
      ...(view.selected >= 0 ? [this.ring(view.selected, "selected")] : []),
      ...(view.cursor >= 0 ? [this.ring(view.cursor, "cursor")] : []),
    ]);
    this.svg.classList.toggle("turn1", view.turn === 1);
  }

  ground(game, key) {
    this.key = key;
    this.game = game;
    this.places = game.places;
    this.hex = game.shape === "hex";
    this.dots = game.shape === "dots";
    this.theme = themeOf(game);
    const xs = game.places.map((p) => p[0] * U), ys = game.places.map((p) => p[1] * U * (this.hex ? HEX : 1));
    const left = game.labels.some((l) => l[0] < 0), below = game.labels.some((l) => l[1] > Math.max(...game.places.map((p) => p[1])));
    const go = game.shape === "go";
    const across = Math.max(...xs) / U + 1, label = Math.max(8.5, Math.min(14, 5 + across * 0.5));
    const pad = go ? 26 : this.hex ? 34 : 22 + across * 0.2;
    const padLeft = pad + (left ? label * (go ? 0.8 : 1.2) : 0), padDown = pad + (below ? label * (go ? 0.8 : 1.2) : 0);
    const x0 = Math.min(...xs) - padLeft, y0 = Math.min(...ys) - pad;
    const w = Math.max(...xs) - x0 + pad, h = Math.max(...ys) - y0 + padDown;
    this.box = [x0, y0, w, h];
    const svg = this.svg;
    svg.setAttribute("viewBox", `${x0} ${y0} ${w} ${h}`);
    svg.style.setProperty("--ratio", w / h);
    svg.setAttribute("class", `board theme-${this.theme} shape-${game.shape}`);
    const parts = [`<rect class="ground" x="${x0}" y="${y0}" width="${w}" height="${h}" rx="10"/>`];
    if (this.theme === "go") parts.push(`<rect x="${x0}" y="${y0}" width="${w}" height="${h}" rx="10" fill="url(#grain)"/>`);
    parts.push(go ? this.lines(xs, ys) : this.cells());
    for (const [x, y, text] of game.labels) {
      const px = x < 0 && !this.hex ? x0 + (padLeft - U / 2) / 2 + 1 : x * U;
      const py = this.hex ? y * U * HEX : x < 0 ? y * U : y0 + h - (padDown - U / 2) / 2 - 1;
      parts.push(`<text class="label" style="font-size:${label}px" x="${px}" y="${py}">${esc(text)}</text>`);
    }
    for (const name of ["stones", "own", "marks", "last", "ghosts", "select"]) parts.push(`<g class="${name}"></g>`);
    parts.push(`<g class="hits">${game.places.map((_, c) => this.hit(c)).join("")}</g>`);
    svg.innerHTML = parts.join("");
  }

  lines(xs, ys) {
    const [l, r, t, b] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const columns = [...new Set(xs)], rows = [...new Set(ys)];
    const out = columns.map((x) => `<path class="grid" d="M${x} ${t}V${b}"/>`).concat(rows.map((y) => `<path class="grid" d="M${l} ${y}H${r}"/>`));
    out.push(`<rect class="edge" x="${l}" y="${t}" width="${r - l}" height="${b - t}"/>`);
    const n = columns.length;
    if (n === rows.length && n >= 7) {
      const e = n < 13 ? 2 : 3, m = (n - 1) / 2;
      const spots = n % 2 ? [e, m, n - 1 - e] : [e, n - 1 - e];
      for (const i of spots) for (const j of spots) if (n > 9 || (i === m) === (j === m)) out.push(`<circle class="star" cx="${l + i * U}" cy="${t + j * U}" r="${n > 13 ? 3.4 : 3.8}"/>`);
    }
    return out.join("");
  }

  cells() {
    if (this.dots) return this.lattice();
    const out = this.places.map(([px, py], c) => {
      const x = this.x(c), y = this.y(c);
      if (this.hex) return `<path class="cell" d="${hexagon(x, y, U * 0.565)}"/>`;
      if (this.theme === "connect") return `<circle class="hole" cx="${x}" cy="${y}" r="${U * 0.41}"/>`;
      const odd = this.theme === "chequer" && (Math.round(px) + Math.round(py)) % 2;
      const inset = ["chequer", "felt"].includes(this.theme) ? 0 : 1.5;
      return `<rect class="cell${odd ? " odd" : ""}" x="${x - U / 2 + inset}" y="${y - U / 2 + inset}" width="${U - 2 * inset}" height="${U - 2 * inset}" rx="${inset ? 5 : 0}"/>`;
    });
    if (/^(openspiel:)?hex/.test(this.game.name)) out.unshift(this.goals());
    return out.join("");
  }

  // Dots and Boxes: at even places dots, at odd ones boxes, lines between.
  lattice() {
    return this.places.map(([px, py], c) => px % 2 && py % 2 ? "" : px % 2 || py % 2 ? this.line(c, "undrawn")
      : `<circle class="dot" cx="${this.x(c)}" cy="${this.y(c)}" r="6"/>`).join("");
  }

  line(c, cls) {
    const x = this.x(c), y = this.y(c), along = this.places[c][0] % 2, half = U - 8;
    return `<path class="${cls}" d="${along ? `M${x - half} ${y}H${x + half}` : `M${x} ${y - half}V${y + half}`}"/>`;
  }

  // Hex: the first player joins top and bottom, the second left and right.
  goals() {
    const n = Math.round(Math.sqrt(this.places.length)), row = [...Array(n).keys()];
    const up = this.y(0) > this.y(n * n - 1);  // the first row lies at the bottom: mirrored
    const seen = (corners) => up ? corners.map((k) => [3, 2, 1, 0, 5, 4][k]) : corners;
    const side = (cells, corners, who) => `<path class="goal g${who}" d="${cells.map((c) =>
      corner(this.x(c), this.y(c), U * 0.6, seen(corners))).join("")}"/>`;
    return side(row, [5, 0, 1], 0) + side(row.map((k) => n * (n - 1) + k), [4, 3, 2], 0) +
      side(row.map((k) => k * n), [5, 4, 3], 1) + side(row.map((k) => k * n + n - 1), [0, 1, 2], 1);
  }

  hit(c) {
    const x = this.x(c), y = this.y(c);
    return `<rect data-cell="${c}" x="${x - U / 2}" y="${y - U / 2}" width="${U}" height="${U}"/>`;
  }

  piece(c, piece) {
    const x = this.x(c), y = this.y(c), side = piece[0], name = piece.slice(1);
    if (this.dots) return this.places[c][0] % 2 && this.places[c][1] % 2 ? this.square(c, 0.76, `stone s${side}`, 0.8) : this.line(c, "drawn");
    if (piece === "#") return `<rect class="block" x="${x - 15}" y="${y - 15}" width="30" height="30" rx="6"/>`;
    if (X_AND_O.has(this.game.name)) {
      const r = U * 0.27;
      return side === "0" ? `<path class="cross" d="M${x - r} ${y - r}L${x + r} ${y + r}M${x + r} ${y - r}L${x - r} ${y + r}"/>`
        : `<circle class="nought" cx="${x}" cy="${y}" r="${r}"/>`;
    }
    const chess = this.theme === "chequer" && CHESS[name] && !this.game.name.includes("checkers");
    if (chess) return `<text class="man s${side}" x="${x}" y="${y + 1}">${chess ? CHESS[name] : ""}\ufe0e</text>`;
    const r = U * (this.hex ? 0.42 : this.theme === "go" ? 0.478 : 0.41);
    const shade = `<circle class="shade" cx="${x + 1.2}" cy="${y + 2.2}" r="${r}"/>`;
    const stone = `<circle class="stone s${side}" cx="${x}" cy="${y}" r="${r}"/>`;
    const inner = this.theme === "connect" || this.theme === "chequer" ? `<circle class="inner" cx="${x}" cy="${y}" r="${r * 0.68}"/>` : "";
    const letter = name ? this.text(c, /[8*]/.test(name) ? "♛" : name.toLowerCase() === name.toUpperCase() ? name : name, `n${side}`, 0.46) : "";
    return (this.theme === "connect" ? "" : shade) + stone + inner + letter;
  }

  lastMark(c, piece, from) {
    if (this.dots) return this.line(c, "drawn newest");
    if (from || !piece) return this.ring(c, "from");
    if (X_AND_O.has(this.game.name) || this.theme === "chequer") return this.ring(c, "from");
    return `<circle class="lastmark m${piece[0]}" cx="${this.x(c)}" cy="${this.y(c)}" r="${U * 0.17}"/>`;
  }

  square(c, half, cls, opacity) {
    const a = half * U;
    return `<rect class="${cls}" x="${this.x(c) - a}" y="${this.y(c) - a}" width="${2 * a}" height="${2 * a}" rx="2" opacity="${opacity.toFixed(2)}"/>`;
  }

  mark(m) {
    const x = this.x(m.cell), y = this.y(m.cell);
    if (m.heat !== undefined) {
      const h = U * (this.theme === "connect" ? 0.4 : 0.46);
      return `<rect class="heat" x="${x - h}" y="${y - h}" width="${2 * h}" height="${2 * h}" rx="5" style="--share:${m.heat.toFixed(3)}"/>` +
        (m.top ? `<text class="heat-text${m.heat > 0.45 ? " full" : ""}" x="${x}" y="${y + 1}">${m.top}</text>` : "");
    }
    return `<g class="candidate${m.best ? " best" : ""}" style="--share:${m.share.toFixed(3)}"><circle cx="${x}" cy="${y}" r="${U * 0.46}"/>` +
      `<text x="${x}" y="${m.bottom ? y - 4.5 : y + 1}">${m.top}</text>` + (m.bottom ? `<text class="small" x="${x}" y="${y + 9}">${m.bottom}</text>` : "") + "</g>";
  }

  ring(c, cls) {
    const h = U * (cls === "start" ? 0.1 : 0.45), x = this.x(c), y = this.y(c);
    if (cls === "start") return `<circle class="start" cx="${x}" cy="${y + U * 0.38}" r="2.6"/>`;
    return `<rect class="${cls}" x="${x - h}" y="${y - h}" width="${2 * h}" height="${2 * h}" rx="8"/>`;
  }

  text(c, text, cls, size) {
    return `<text class="on ${cls}" x="${this.x(c)}" y="${this.y(c) + 1}" style="font-size:${size * U}px">${esc(text)}</text>`;
  }

  drawText(view) {
    this.key = "";
    this.places = [];
    this.game = view.game;
    const lines = view.text.replace(/\x1b\[[0-9;]*m/g, "").split("\n");
    const wide = Math.max(44, ...lines.map((l) => l.length)), w = wide * 9.7 + 48, h = lines.length * 19 + 44;
    this.box = [0, 0, w, h];
    this.svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
    this.svg.style.setProperty("--ratio", w / h);
    this.svg.setAttribute("class", "board theme-flat shape-text");
    this.svg.innerHTML = `<rect class="ground" width="${w}" height="${h}" rx="10"/>` + lines.map((l, n) =>
      `<text class="mono" x="24" y="${36 + n * 19}" xml:space="preserve">${esc(l)}</text>`).join("");
  }
}

function cellOf(event) {
  const hit = event.target.closest ? event.target.closest("[data-cell]") : null;
  return hit ? Number(hit.dataset.cell) : -1;
}

function corner(x, y, r, which) {
  return which.map((k, n) => `${n ? "L" : "M"}${(x + r * Math.sin(k * Math.PI / 3)).toFixed(2)} ${(y - r * Math.cos(k * Math.PI / 3)).toFixed(2)}`).join("");
}

const hexagon = (x, y, r) => `${corner(x, y, r, [0, 1, 2, 3, 4, 5])}Z`;
