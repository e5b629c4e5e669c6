"use strict";
/* The page of attention: unpacks one byte a number, draws one head at a time on a canvas, and reads cells back.
   The packing is described at the top of plots/attention_data.py. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { names, labels, groups, causal } = data;
  const n = labels.length, heads = names.length, LEVELS = 255;
  const canvas = document.getElementById("attention"), pen = canvas.getContext("2d");
  const select = document.getElementById("head"), by = document.getElementById("by"), ends = document.getElementById("ends");
  const whole = document.getElementById("whole"), legend = document.getElementById("legend"), thumbs = document.querySelector(".thumbs");
  const tip = document.querySelector(".tip"), readout = document.querySelector(".readout");
  const LEFT = 150, FOOT = 120, LETTER = 11, THUMB = 56;
  let largest, levels, view, range, chosen = null, drag = null;

  async function unpack() {
    const bytes = Uint8Array.from(atob(data.packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const raw = await new Response(stream).arrayBuffer(), reader = new DataView(raw);
    largest = Float32Array.from({ length: heads * n }, (_, index) => reader.getFloat32(4 * index, true));
    levels = new Uint8Array(raw, 4 * heads * n);
  }

  function at(head, dest, src) {
    if (causal && src > dest) return 0;
    const index = causal ? head * (n * (n + 1) / 2) + dest * (dest + 1) / 2 + src : (head * n + dest) * n + src;
    return levels[index] * largest[head * n + dest] / LEVELS;
  }

  /* What is on the canvas: a square of positions, or of words (summed over sources, averaged over destinations). */
  function viewOf(head, kind) {
    const size = kind === "word" ? groups.length : n, values = new Float32Array(size * size);
    if (kind === "position") {
      for (let dest = 0; dest < n; dest += 1) for (let src = 0; src < n; src += 1) values[dest * n + src] = at(head, dest, src);
      return { size, values, head, kind };
    }
    groups.forEach((own, row) => groups.forEach((other, column) => {
      let sum = 0;
      for (let dest = own.start; dest < own.stop; dest += 1) for (let src = other.start; src < other.stop; src += 1) sum += at(head, dest, src);
      values[row * size + column] = sum / (own.stop - own.start);
    }));
    return { size, values, head, kind };
  }

  /* ---- colours ---- */

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const rgb = (hex) => [1, 3, 5].map((digit) => parseInt(hex.slice(digit, digit + 2), 16));
  const mix = (one, other, share) => one.map((value, index) => value + (other[index] - value) * share);
  function palette() {
    const page = rgb(css("--page")), accent = rgb(css("--accent")), ink = rgb(css("--ink"));
    const dark = page[0] < 128;
    const end = dark ? mix(accent, [255, 255, 255], 0.75) : mix(accent, ink, 0.75);
    const colours = Array.from({ length: 256 }, (_, index) => index / 255).map((share) => (share < 0.65 ? mix(page, accent, share / 0.65) : mix(accent, end, (share - 0.65) / 0.35)));
    return { colours, never: rgb(css("--panel")) };
  }

  function paint(image, size, from, values, colour, wide) {
    const [top, left, rows, columns] = from, pixels = image.data, { colours, never } = palette();
    let most = 0;
    for (const value of values) most = Math.max(most, value);
    for (let row = 0; row < rows; row += 1) {
      let end = colour === "one" ? 1 : most;
      if (colour === "row") {
        end = 0;
        for (let column = 0; column < size; column += 1) end = Math.max(end, values[(top + row) * size + column]);
      }
      for (let column = 0; column < columns; column += 1) {
        const dest = top + row, src = left + column, place = 4 * (row * wide + column);
        const shade = causal && src > dest ? never : colours[end ? Math.min(255, Math.round(255 * values[dest * size + src] / end)) : 0];
        pixels[place] = shade[0]; pixels[place + 1] = shade[1]; pixels[place + 2] = shade[2]; pixels[place + 3] = 255;
      }
    }
    return most;
  }

  /* ---- drawing ---- */

  const said = (index) => (view.kind === "word" ? groups[index].text : labels[index]);
  const groupOf = (position) => groups.find((group) => group.start <= position && position < group.stop);
  const cut = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

  function geometry() {
    const [top, left, bottom, right] = range, rows = bottom - top, columns = right - left;
    const room = Math.max(320, Math.min(document.documentElement.clientWidth - LEFT - 90, 860));
    const cell = Math.max(1, Math.min(26, room / Math.max(rows, columns)));
    return { top, left, rows, columns, cell };
  }

  function draw() {
    const { top, left, rows, columns, cell } = geometry();
    const width = LEFT + columns * cell + 70, height = 10 + rows * cell + FOOT, ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    Object.assign(canvas.style, { width: width + "px", height: height + "px" });
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const image = new ImageData(columns, rows);
    const most = paint(image, view.size, [top, left, rows, columns], view.values, ends.value, columns);
    const small = new OffscreenCanvas(columns, rows);
    small.getContext("2d").putImageData(image, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, LEFT, 10, columns * cell, rows * cell);
    pen.strokeStyle = css("--rule");
    pen.strokeRect(LEFT - 0.5, 9.5, columns * cell + 1, rows * cell + 1);
    names_(top, left, rows, columns, cell);
    cursor();
    legend.textContent = ends.value === "row" ? "full colour: the largest of the row" : `full colour: ${ends.value === "one" ? 1 : most.toPrecision(3)}`;
    whole.hidden = rows === view.size && columns === view.size;
  }

  /* Every label where there is room for it; else the words at their middle, as many as do not overlap; a line where a word begins. */
  function names_(top, left, rows, columns, cell) {
    pen.font = `${LETTER}px ${getComputedStyle(document.body).fontFamily}`;
    pen.fillStyle = css("--ink");
    pen.strokeStyle = css("--soft");
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    const every = view.kind === "word" || cell >= LETTER;
    const marks = (from, count) => {
      if (every) return Array.from({ length: count }, (_, index) => ({ text: said(from + index), middle: index + 0.5 }));
      return groups.filter((group) => group.start < from + count && group.stop > from)
        .map((group) => ({ text: group.text, middle: (Math.max(group.start, from) + Math.min(group.stop, from + count)) / 2 - from }));
    };
    const thin = (list) => {
      let free = -Infinity;
      return list.filter((mark) => mark.text !== "·" && mark.middle * cell - free >= LETTER && (free = mark.middle * cell, true));
    };
    const inWords = (index, text) => {
      if (view.kind === "word" || !every) return text;
      const group = groupOf(index);
      return group.start === index && group.text !== "·" && group.text !== text ? `${cut(group.text, 12)}  ${text}` : text;
    };
    for (const mark of thin(marks(top, rows))) pen.fillText(cut(inWords(top + Math.floor(mark.middle), mark.text), 24), LEFT - 6, 10 + mark.middle * cell);
    for (const mark of thin(marks(left, columns))) {
      pen.save();
      pen.translate(LEFT + mark.middle * cell, 16 + rows * cell);
      pen.rotate(-Math.PI / 2);
      pen.fillText(cut(inWords(left + Math.floor(mark.middle), mark.text), 20), 0, 0);
      pen.restore();
    }
    if (view.kind === "word") return;
    for (const { start } of groups) {
      pen.beginPath();
      if (start > top && start < top + rows) { const y = 10 + (start - top) * cell; pen.moveTo(LEFT - 4, y); pen.lineTo(LEFT, y); }
      if (start > left && start < left + columns) { const x = LEFT + (start - left) * cell; pen.moveTo(x, 10 + rows * cell); pen.lineTo(x, 14 + rows * cell); }
      pen.stroke();
    }
  }

  function cursor() {
    const { top, left, rows, columns, cell } = geometry();
    pen.strokeStyle = css("--head");
    pen.lineWidth = 1.5;
    if (chosen && chosen[0] >= top && chosen[0] < top + rows && chosen[1] >= left && chosen[1] < left + columns) {
      pen.strokeRect(LEFT + (chosen[1] - left) * cell, 10 + (chosen[0] - top) * cell, Math.max(cell, 3), Math.max(cell, 3));
    }
    if (drag && drag.to) pen.strokeRect(Math.min(drag.x, drag.to.x), Math.min(drag.y, drag.to.y), Math.abs(drag.to.x - drag.x), Math.abs(drag.to.y - drag.y));
    pen.lineWidth = 1;
  }

  /* ---- reading ---- */

  const number = (value) => (value >= 0.0005 ? value.toFixed(3) : value > 0 ? "<0.001" : "0");
  function whereIs(index) {
    if (view.kind === "word") {
      const { text, start, stop } = groups[index];
      return `${text} (positions ${start}–${stop - 1})`;
    }
    const group = groupOf(index);
    return `${labels[index]} · position ${index}${group.text !== "·" && group.text !== labels[index] ? ` · “${group.text}”` : ""}`;
  }
  const cellSays = (row, column) =>
    `from ${whereIs(row)}\nto ${whereIs(column)}\n${causal && column > row ? "not seen: it comes later" : `attention ${number(view.values[row * view.size + column])}`}`;

  function listed(row) {
    const own = Array.from(view.values.subarray(row * view.size, (row + 1) * view.size), (value, column) => [value, column]);
    const best = own.filter(([value]) => value > 0).sort((one, other) => other[0] - one[0]).slice(0, 10);
    return [`Head ${names[view.head]}: ${whereIs(row)} looks at`, ...best.map(([value, column]) => `${number(value)}  ${whereIs(column)}`)].join("\n");
  }

  function cellAt(event) {
    const frame = canvas.getBoundingClientRect(), { top, left, rows, columns, cell } = geometry();
    const x = event.clientX - frame.left, y = event.clientY - frame.top;
    const row = Math.floor((y - 10) / cell), column = Math.floor((x - LEFT) / cell);
    return { x, y, inside: row >= 0 && column >= 0 && row < rows && column < columns, row: top + row, column: left + column };
  }

  function choose(row, column) {
    chosen = [row, column];
    readout.textContent = listed(row);
    readout.classList.remove("empty");
    draw();
  }

  function show(head, kind = by.value, keep = true) {
    const same = keep && view && view.kind === kind;
    view = viewOf(head, kind);
    if (!same) { range = [0, 0, view.size, view.size]; chosen = null; }
    select.value = String(head);
    for (const [index, button] of [...thumbs.children].entries()) button.setAttribute("aria-pressed", String(index === head));
    draw();
    if (chosen) readout.textContent = listed(chosen[0]);
  }

  function thumbnail(head, picture) {
    const side = Math.min(n, THUMB), values = new Float32Array(side * side);
    for (let dest = 0; dest < n; dest += 1) {
      for (let src = 0; src < (causal ? dest + 1 : n); src += 1) {
        const place = Math.floor(dest * side / n) * side + Math.floor(src * side / n);
        values[place] = Math.max(values[place], at(head, dest, src));
      }
    }
    picture.width = picture.height = side;
    const image = new ImageData(side, side);
    paint(image, side, [0, 0, side, side], values, "head", side);
    picture.getContext("2d").putImageData(image, 0, 0);
  }

  function pictures() {
    [...thumbs.querySelectorAll("canvas")].forEach((picture, head) => thumbnail(head, picture));
  }

  function listen() {
    select.addEventListener("change", () => show(+select.value));
    by.addEventListener("change", () => show(view.head));
    ends.addEventListener("change", draw);
    whole.addEventListener("click", () => { range = [0, 0, view.size, view.size]; draw(); });
    canvas.addEventListener("dblclick", () => whole.click());
    canvas.addEventListener("pointerdown", (event) => {
      const { x, y, inside, row, column } = cellAt(event);
      if (inside) { drag = { x, y, row, column }; canvas.setPointerCapture(event.pointerId); }
    });
    canvas.addEventListener("pointermove", (event) => {
      const here = cellAt(event);
      tip.hidden = !here.inside;
      if (drag) { drag.to = here; draw(); }
      if (!here.inside) return;
      tip.textContent = cellSays(here.row, here.column);
      const { width, height } = tip.getBoundingClientRect();
      tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 6)) + "px";
      tip.style.top = (event.clientY + height + 22 < innerHeight ? event.clientY + 14 : event.clientY - height - 10) + "px";
    });
    canvas.addEventListener("pointerup", (event) => {
      const here = cellAt(event), from = drag;
      drag = null;
      if (!from) return;
      if (Math.abs(here.x - from.x) < 6 && Math.abs(here.y - from.y) < 6) return choose(from.row, from.column);
      const [top, left, bottom, right] = range, clamp = (value, low, high) => Math.max(low, Math.min(high, value));
      const ends_ = (one, other, low, high) => [clamp(Math.min(one, other), low, high - 1), clamp(Math.max(one, other) + 1, low + 1, high)];
      const [first, last] = ends_(from.row, here.row, top, bottom), [near, far] = ends_(from.column, here.column, left, right);
      range = [first, near, last, far];
      draw();
    });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (event.key === "Escape") whole.click();
      if (!step) return;
      event.preventDefault();
      const [top, left, bottom, right] = range, from = chosen || [top, left - 1];
      choose(Math.max(top, Math.min(bottom - 1, from[0] + step[0])), Math.max(left, Math.min(right - 1, from[1] + step[1])));
      tip.hidden = true;
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { pictures(); draw(); });
    addEventListener("resize", draw);
  }

  async function start() {
    if (typeof DecompressionStream === "undefined") {
      readout.textContent = "This browser is too old for this page: it cannot decompress data (DecompressionStream, in all browsers since 2023).";
      return;
    }
    await unpack();
    names.forEach((name, head) => {
      const option = document.createElement("option"), button = document.createElement("button"), picture = document.createElement("canvas");
      Object.assign(option, { value: String(head), textContent: name });
      select.append(option);
      Object.assign(button, { type: "button", title: `head ${name}` });
      button.append(picture, name);
      button.addEventListener("click", () => show(head));
      thumbs.append(button);
    });
    if (heads < 2) thumbs.hidden = true;
    listen();
    pictures();
    show(0);
    /* For whoever wants the numbers: `document.querySelector("#attention").read.at(head, dest, src)`. */
    canvas.read = {
      at,
      shown: (row, column) => view.values[row * view.size + column],
      place: (row, column) => {
        const frame = canvas.getBoundingClientRect(), { top, left, cell } = geometry();
        return [frame.left + LEFT + (column - left + 0.5) * cell, frame.top + 10 + (row - top + 0.5) * cell];
      },
    };
    document.documentElement.dataset.ready = "yes";
  }
  start();
})();
