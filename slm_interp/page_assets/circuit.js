"use strict";
/* The page of a circuit: how many edges are drawn, what the pointer is on, and the edges of one node.
   The drawing itself is in the page; its parts carry the numbers of their rows in the data. */
(() => {
  const { nodes, edges, labels, start } = JSON.parse(document.getElementById("data").textContent);
  const svg = document.querySelector("svg.circuit"), tip = document.querySelector(".tip"), readout = document.querySelector(".readout");
  const slider = document.querySelector("#strength"), said = document.querySelector("#strength-said"), rest = document.querySelector("#rest");
  const paths = new Map([...svg.querySelectorAll(".edge")].map((path) => [+path.dataset.edge, path]));
  const boxes = [...svg.querySelectorAll(".node")];
  const idle = readout.textContent;
  let focus = null;

  const number = (value) => (value > 0 ? "+" : "") + String(+value.toPrecision(4)).replace("-", "−");
  const at = (node) => node.name + (node.span ? ` at “${labels[node.span]}”` : "");
  const edgeSays = (edge) =>
    `${at(nodes[edge.source])} → ${at(nodes[edge.target])}${edge.slot === "in" ? "" : ` (${edge.slot})`}\neffect ${number(edge.score)}${edge.kept ? "" : ", not kept"}`;
  const nodeSays = (node) => `${at(node)}\n${node.score === null ? "no score of its own" : `score ${number(node.score)}`}`;

  const pool = () => edges.map((edge, index) => ({ ...edge, index })).filter((edge) => edge.kept || (rest && rest.checked));
  const strongest = () => pool().sort((one, other) => Math.abs(other.score) - Math.abs(one.score) || one.index - other.index);

  /* Ties stand or fall together: the threshold is the effect of the last edge that is let in. */
  function draw() {
    const order = strongest(), count = +slider.value;
    const threshold = count ? Math.abs(order[count - 1].score) : Infinity;
    const shown = new Set(order.filter((edge) => Math.abs(edge.score) >= threshold).map((edge) => edge.index));
    const own = focus === null ? null : new Set(order.filter((edge) => edge.source === focus || edge.target === focus).map((edge) => edge.index));
    const touched = new Set(focus === null ? [] : [focus]);
    for (const [index, path] of paths) {
      const drawn = own ? own.has(index) : shown.has(index);
      path.style.display = drawn ? "" : "none";
      if (drawn) touched.add(edges[index].source).add(edges[index].target);
    }
    for (const box of boxes) {
      box.classList.toggle("pale", !touched.has(+box.dataset.node));
      box.classList.toggle("chosen", +box.dataset.node === focus);
    }
    said.textContent = count ? `|effect| ≥ ${+threshold.toPrecision(4)} · ${shown.size} of ${order.length} edges` : `none of ${order.length} edges`;
    readout.textContent = focus === null ? idle : [nodeSays(nodes[focus]).replace("\n", " · ") + ` · ${own.size} edges, strongest first`,
      ...order.filter((edge) => own.has(edge.index)).map((edge) => edgeSays(edge).replace("\n", " · "))].join("\n");
    readout.classList.toggle("empty", focus === null);
  }

  function limits() {
    const order = pool().length;
    slider.max = order;
    slider.value = Math.min(+slider.value, order);
  }

  /* Thin edges are hard to meet: what lies within a few pixels counts. */
  function near(x, y) {
    for (const [dx, dy] of [[0, 0], [3, 0], [-3, 0], [0, 3], [0, -3], [5, 0], [-5, 0]]) {
      const part = document.elementFromPoint(x + dx, y + dy)?.closest?.(".edge, .node");
      if (part && (dx === 0 && dy === 0 || part.classList.contains("edge"))) return part;
    }
    return null;
  }

  function point(event) {
    const part = near(event.clientX, event.clientY);
    for (const path of paths.values()) path.classList.toggle("hot", path === part);
    tip.hidden = !part;
    if (!part) return;
    tip.textContent = part.dataset.edge === undefined ? nodeSays(nodes[+part.dataset.node]) : edgeSays(edges[+part.dataset.edge]);
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 6)) + "px";
    tip.style.top = (event.clientY + height + 22 < innerHeight ? event.clientY + 14 : event.clientY - height - 10) + "px";
  }

  function choose(index) {
    focus = focus === index ? null : index;
    draw();
  }

  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  svg.addEventListener("click", (event) => {
    const box = event.target.closest(".node");
    if (box) choose(+box.dataset.node);
    else if (focus !== null) choose(focus);
  });
  for (const box of boxes) {
    box.setAttribute("tabindex", "0");
    box.setAttribute("role", "button");
    box.setAttribute("aria-label", nodeSays(nodes[+box.dataset.node]).replace("\n", ", "));
  }
  svg.removeAttribute("role");
  svg.addEventListener("keydown", (event) => {
    const box = event.target.closest(".node");
    if (box && (event.key === "Enter" || event.key === " ")) choose(+box.dataset.node);
    else if (event.key === "Escape" && focus !== null) choose(focus);
    else return;
    event.preventDefault();
  });
  slider.addEventListener("input", () => { focus = null; draw(); });
  if (rest) rest.addEventListener("change", () => { limits(); draw(); });
  limits();
  slider.value = start;
  draw();
  document.documentElement.dataset.ready = "yes";
})();
