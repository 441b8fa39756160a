// The curve, the candidates, the move list and the search tree. Each fills an element from data.

export const esc = (text) => String(text).replace(/[&<>"]/g, (c) => ({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})[c]);
export const percent = (share) => share >= 0.995 && share < 1 ? "99%" : share > 0 && share < 0.005 ? "<1%" : `${Math.round(share * 100)}%`;
export const winrate = (value, side) => ((side === 0 ? value : -value) + 1) / 2;
export const many = (n) => n >= 10000 ? `${Math.round(n / 1000)}k` : n >= 1000 ? `${(n / 1000).toFixed(1)}k` : String(n);

/** values: [{node, ply, value}] along the line; at: the ply that is shown. */
export function drawCurve(svg, values, plies, at, name, onNode) {
  const w = 360, h = 96, l = 26, r = 6, t = 6, b = 16;
  const last = Math.max(plies, 10), x = (p) => l + (w - l - r) * p / last, y = (v) => t + (h - t - b) * (1 - (v + 1) / 2);
  const points = values.filter((v) => v.value !== null).map((v) => [x(v.ply), y(v.value), v]);
  const parts = [`<rect class="c-ground" x="${l}" y="${t}" width="${w - l - r}" height="${h - t - b}" rx="4"/>`];
  if (points.length > 1) {
    const path = points.map((p) => `${p[0].toFixed(1)} ${p[1].toFixed(1)}`).join("L");
    const end = points[points.length - 1][0].toFixed(1), start = points[0][0].toFixed(1);
    parts.push(`<path class="c-area" d="M${start} ${h - b}L${path}L${end} ${h - b}Z"/>`, `<path class="c-line" d="M${path}"/>`);
  }
  parts.push(`<path class="c-half" d="M${l} ${y(0)}H${w - r}"/>`);
  if (points.length < 40) parts.push(...points.map((p) => `<circle class="c-dot" cx="${p[0]}" cy="${p[1]}" r="1.8"/>`));
  parts.push(`<path class="c-at" d="M${x(at)} ${t}V${h - b}"/>`);
  const here = points.find((p) => p[2].ply === at);
  if (here) parts.push(`<circle class="c-here" cx="${here[0]}" cy="${here[1]}" r="3.6"/>`);
  for (const [v, text] of [[1, "100"], [0, "50"], [-1, "0"]]) parts.push(`<text class="c-label" x="${l - 5}" y="${y(v) + (v > 0 ? 7 : v < 0 ? 0 : 3)}" text-anchor="end">${text}</text>`);
  const step = last <= 20 ? 5 : last <= 50 ? 10 : last <= 120 ? 20 : 50;
  for (let p = 0; p <= last; p += step) parts.push(`<text class="c-label" x="${x(p)}" y="${h - 4}" text-anchor="middle">${p}</text>`);
  parts.push(`<text class="c-name" x="${l + 6}" y="${t + 12}">${esc(name)} wins, %</text>`);
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  svg.innerHTML = parts.join("");
  svg.onclick = (e) => {
    const box = svg.getBoundingClientRect(), scale = w / box.width;
    const ply = Math.round(((e.clientX - box.left) * scale - l) / (w - l - r) * last);
    const near = values.reduce((a, v) => Math.abs(v.ply - ply) < Math.abs(a.ply - ply) ? v : a, values[0]);
    if (near) onNode(near.node);
  };
}

/** Rows stay where they are while their numbers change, so that they can be pointed at. */
export function drawCandidates(body, report, side, shown, handlers) {
  const moves = report ? report.moves.filter((m, n) => n < 8 && (m.visits > 0 || report.visits === 0 || n < 3)) : [];
  const top = Math.max(1, ...moves.map((m) => m.visits));
  if (!moves.length) {
    body.innerHTML = `<tr class="empty"><td colspan="5">${esc(handlers.empty)}</td></tr>`;
  } else if (body.querySelectorAll("[data-n]").length !== moves.length) {
    body.innerHTML = moves.map((_, n) => `<tr data-n="${n}" tabindex="0"><td><b></b></td><td></td><td class="barred"><i></i><span></span></td><td></td>
      <td><button class="quiet icon small" data-play><svg><use href="#i-play"/></svg></button></td></tr>`).join("");
  }
  moves.forEach((m, n) => {
    const row = body.rows[n], cells = row.cells, button = row.querySelector("button");
    row.classList.toggle("shown", shown === m.action);
    cells[0].firstChild.textContent = m.text;
    cells[1].textContent = m.visits || report.visits === 0 ? percent(winrate(m.value, side)) : "";
    cells[2].firstChild.style.width = `${(100 * m.visits / top).toFixed(1)}%`;
    cells[2].lastChild.textContent = many(m.visits);
    cells[3].textContent = percent(m.prior);
    button.dataset.play = m.action;
    button.title = `Play ${m.text}`;
    button.setAttribute("aria-label", button.title);
  });
  const moveOf = (e) => { const row = e.target.closest("[data-n]"); return row ? moves[Number(row.dataset.n)] : null; };
  body.onmouseover = (e) => handlers.show(moveOf(e), false);
  body.onmouseleave = () => handlers.show(null, false);
  body.onclick = (e) => {
    const move = moveOf(e);
    if (move && e.target.closest("button")) handlers.play(move.action);
    else if (move) handlers.show(move, true);
  };
  body.onkeydown = (e) => { if (e.key === "Enter" && e.target.matches("tr")) { e.stopPropagation(); handlers.show(moveOf(e), true); } };
}

/** line: nodes from the first move on; nodes: all, by number. */
export function drawMoves(list, line, nodes, at, theme, onNode) {
  const children = new Map();
  for (const n of nodes) if (n.parent >= 0) children.set(n.parent, [...(children.get(n.parent) || []), n]);
  const cell = (n) => {
    const others = (children.get(n.parent) || []).filter((o) => o.number !== n.number);
    const value = n.value === null ? "" : `<small>${percent(winrate(n.value, 0))}</small>`;
    return `<button class="move${n.number === at ? " here" : ""}" data-node="${n.number}"><i class="dot s${n.side} theme-${theme}"></i>${esc(n.text)}${value}</button>` +
      others.map((o) => `<button class="other" data-node="${o.number}" title="Another line">${esc(o.text)}</button>`).join("");
  };
  list.innerHTML = (nodes.length < 2 ? `<li class="empty">No moves yet.</li>` : "") +
    line.map((n, k) => `<li><span class="number">${k + 1}</span>${cell(n)}</li>`).join("");
  for (const button of list.querySelectorAll("[data-node]")) button.onclick = () => onNode(Number(button.dataset.node));
  const here = list.querySelector(".here");
  if (here) {
    const box = list.parentElement;
    if (here.offsetTop < box.scrollTop || here.offsetTop > box.scrollTop + box.clientHeight - 40) box.scrollTop = here.offsetTop - box.clientHeight / 2;
  }
}

export function drawTree(elements, tree, texts, sides, onPath) {
  const {path, body, note} = elements;
  path.innerHTML = [`<button class="crumb" data-depth="0">root</button>`, ...texts.map((t, n) => `<button class="crumb" data-depth="${n + 1}">${esc(t)}</button>`)].join("<span>›</span>");
  for (const crumb of path.querySelectorAll("[data-depth]")) crumb.onclick = () => onPath(tree ? tree.path.slice(0, Number(crumb.dataset.depth)) : [], texts.slice(0, Number(crumb.dataset.depth)));
  const top = tree ? Math.max(1, ...tree.children.map((c) => c.visits)) : 1;
  const rows = tree ? tree.children.map((c) => `<tr tabindex="0" data-action="${c.action}"><td><b>${esc(c.text)}</b></td>
    <td class="barred"><i style="width:${(100 * c.visits / top).toFixed(1)}%"></i><span>${many(c.visits)}</span></td>
    <td>${percent(winrate(c.value, tree.to_play))}</td><td>${percent(c.prior)}</td></tr>`).join("") : "";
  if (body.rows_shown !== rows) body.innerHTML = body.rows_shown = rows; // else a click may fall between two rows
  for (const row of body.querySelectorAll("[data-action]")) {
    const child = tree.children.find((c) => c.action === Number(row.dataset.action));
    row.onclick = () => onPath([...tree.path, child.action], [...texts, child.text]);
    row.onkeydown = (e) => { if (e.key === "Enter") { e.stopPropagation(); row.onclick(); } };
  }
  note.textContent = !tree ? "Turn the analysis on: its search can be walked here, move by move."
    : tree.children.length ? `${many(tree.visits)} visits here; ${sides[tree.to_play]} to move has ${percent(winrate(tree.value, tree.to_play))}.`
      : `The search has not looked further than this (${many(tree.visits)} visits).`;
}
