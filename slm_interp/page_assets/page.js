"use strict";
/* Draws the figures of a page and ties them to the player of their section.
   A figure says what it is in layout.meta.slm: role (grid, waveform, curves), axis (position, seconds), words, start_s, end_s. */
(() => {
  const SHORTEST = 0.16; // seconds: shorter stretches are widened, since 40 ms cannot be heard as speech
  const ROOM = 34; // pixels: narrower columns cannot hold a token
  const PRINTED = 690; // pixels: what a sheet of A4 holds beside its margins
  const CONFIG = {
    displaylogo: false, responsive: true, plotlyServerURL: "", doubleClick: "reset",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"], toImageButtonOptions: { format: "svg" },
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const colours = () => ({
    "font.color": css("--ink"), "hoverlabel.bgcolor": css("--page"), "hoverlabel.bordercolor": css("--soft"), "hoverlabel.font.color": css("--ink"),
  });

  async function dataOf(figure) {
    const script = document.getElementById(figure.dataset.figure + "-data");
    if (script.dataset.packed !== "gzip") return JSON.parse(script.textContent);
    const bytes = Uint8Array.from(atob(script.textContent), (letter) => letter.charCodeAt(0));
    return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
  }

  /* ---- drawing ---- */

  async function draw(figure) {
    const box = figure.querySelector(".plot");
    const { data, layout } = await dataOf(figure);
    for (const part of ["font", "hoverlabel", "margin"]) layout[part] = layout[part] || {};
    const meta = (layout.meta && layout.meta.slm) || {};
    const menus = layout.updatemenus || [];
    delete layout.updatemenus;
    const bar = make("div", { class: "bar" });
    if (meta.title) bar.append(make("h3", {}, meta.title));
    if (meta.head_px) {
      layout.title = { text: "" };
      layout.margin.t -= meta.head_px;
      layout.height -= meta.head_px;
    }
    layout.autosize = true;
    box.style.minHeight = layout.height + "px";
    const wide = layout.width;
    if (wide) Object.assign(box.style, { width: layout.width + "px", flex: "none" });
    if (meta.role) box.classList.add(meta.role);
    Object.assign(layout.font, { color: css("--ink") });
    Object.assign(layout.hoverlabel, { bgcolor: css("--page"), bordercolor: css("--soft"), font: { ...layout.hoverlabel.font, color: css("--ink") } });
    await Plotly.newPlot(box, data, layout, CONFIG);
    for (const menu of menus) bar.append(select(box, menu));
    if (wide) {
      box.before(rail(box));
      if (wide > box.parentElement.clientWidth) bar.append(make("span", { class: "hint" }, `${meta.columns.length} positions: scroll sideways`));
    }
    if (bar.childElementCount) figure.prepend(bar);
    box.slm = meta;
    return box;
  }

  /* A plotly menu as a native one: it takes the keyboard and the page's colours. */
  function select(box, menu) {
    const [name] = menu.buttons[0].label.split(": ");
    const list = make("select");
    for (const button of menu.buttons) list.append(make("option", {}, button.label.slice(name.length + 2)));
    list.selectedIndex = menu.active || 0;
    list.addEventListener("change", () => Plotly.restyle(box, ...menu.buttons[list.selectedIndex].args));
    return make("label", {}, name, list);
  }

  /* Layer names that stay in sight while a wide grid scrolls sideways. */
  function rail(box) {
    const { yaxis, margin } = box._fullLayout;
    const width = box._fullLayout._size.l;
    const place = make("div", { class: "rail", "aria-hidden": "true" });
    Object.assign(place.style, { width: width + "px", marginRight: -width + "px", height: box._fullLayout.height + "px" });
    box._fullLayout.yaxis.ticktext.forEach((text, index) => {
      const label = make("span", {}, text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&"));
      label.style.top = yaxis._offset + yaxis.l2p(yaxis.tickvals[index]) + "px";
      place.append(label);
    });
    const title = make("span", { class: "axis" }, yaxis.title.text || "");
    title.style.top = yaxis._offset + yaxis._length / 2 + "px";
    place.append(title);
    return place;
  }

  /* ---- sound ---- */

  class Sound {
    constructor(audio) {
      this.audio = audio;
      this.end = Infinity;
      this.watchers = [];
      for (const name of ["timeupdate", "seeked", "pause", "loadedmetadata"]) audio.addEventListener(name, () => this.tell());
      audio.addEventListener("play", () => this.run());
      audio.addEventListener("seeking", () => { if (!this.own) this.end = Infinity; });
    }
    stretch(start, end) {
      const short = Math.max(0, SHORTEST - (end - start)) / 2;
      this.end = end + short;
      this.own = true;
      this.audio.currentTime = Math.max(0, start - short);
      this.audio.addEventListener("seeked", () => { this.own = false; }, { once: true });
      this.audio.play().catch(() => {});
      this.tell();
    }
    run() {
      if (this.audio.currentTime >= this.end) {
        this.audio.pause();
        this.end = Infinity;
      }
      this.tell();
      if (!this.audio.paused) requestAnimationFrame(() => this.run());
    }
    tell() {
      for (const watcher of this.watchers) watcher(this.audio.currentTime, !this.audio.paused);
    }
  }

  /* Where a second lies on a figure's x axis; null where it does not. */
  function xOf(meta, second) {
    if (meta.axis === "seconds") return second;
    const index = meta.start_s.findIndex((start, position) => start <= second && second < meta.end_s[position]);
    return index < 0 ? null : index - 0.5 + (second - meta.start_s[index]) / (meta.end_s[index] - meta.start_s[index]);
  }

  function playhead(box, sound) {
    const line = make("div", { class: "playhead", hidden: "" });
    box.append(line);
    sound.watchers.push((second, playing) => {
      const { xaxis, yaxis } = box._fullLayout;
      const x = xOf(box.slm, second);
      const pixel = x === null ? -1 : xaxis.l2p(x);
      line.hidden = !(pixel >= 0 && pixel <= xaxis._length);
      if (line.hidden) return;
      const left = xaxis._offset + pixel;
      Object.assign(line.style, { left: left + "px", top: yaxis._offset + "px", height: yaxis._length + "px" });
      const strip = box.parentElement, from = strip.scrollLeft + xaxis._offset, to = strip.scrollLeft + strip.clientWidth - 40;
      if (playing && (left < from || left > to)) strip.scrollLeft = left - xaxis._offset - 60;
    });
    box.on("plotly_afterplot", () => sound.tell());
  }

  function clicksOnWaveform(box, sound) {
    box.addEventListener("click", (event) => {
      const { xaxis, yaxis } = box._fullLayout;
      const frame = box.getBoundingClientRect();
      const x = event.clientX - frame.left - xaxis._offset, y = event.clientY - frame.top - yaxis._offset;
      if (x < 0 || x > xaxis._length || y < 0 || y > yaxis._length) return;
      const second = xaxis.p2l(x);
      const word = box.slm.words.find((one) => one.x0 <= second && second < one.x1);
      sound.stretch(word ? word.x0 : second, word ? word.x1 : Infinity);
    });
  }

  function secondsOfWord(meta, word) {
    return meta.axis === "seconds" ? [word.x0, word.x1] : [meta.start_s[word.start], meta.end_s[word.stop - 1]];
  }

  /* ---- the grid: one cell at a time, by pointer or by arrow keys ---- */

  function readings(box, row, column) {
    const trace = box.data[0];
    const labels = box._fullLayout.yaxis.ticktext;
    return trace.hovertemplate
      .replace(/<extra>.*<\/extra>/, "")
      .replace(/%\{customdata\[(\d+)\]\}/g, (_, index) => trace.customdata[row][column][index])
      .replace("%{y}", labels[row])
      .replace(/(<br>)+/g, "\n").replace(/<\/?b>/g, "")
      .replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
  }

  function cells(box, sound, figure) {
    const meta = box.slm, cursor = make("div", { class: "cursor", hidden: "" });
    const hint = sound ? "Click a cell, or use the arrow keys and Enter, to hear its stretch and keep its reading here." : "Click a cell, or use the arrow keys, to keep its reading here.";
    const readout = make("div", { class: "readout empty", "aria-live": "polite" }, hint);
    let at = null;
    box.append(cursor);
    box.parentElement.after(readout);
    Object.entries({ tabindex: "0", role: "application", "aria-roledescription": "grid" }).forEach(([key, value]) => box.setAttribute(key, value));
    const edges = (column) => (meta.axis === "seconds" ? [box.data[0].x[column], box.data[0].x[column + 1]] : [column - 0.5, column + 0.5]);
    const outline = () => {
      if (!at) return;
      const { xaxis, yaxis } = box._fullLayout, [left, right] = edges(at[1]).map((x) => xaxis.l2p(x));
      const top = yaxis.l2p(at[0] + 0.5), bottom = yaxis.l2p(at[0] - 0.5);
      cursor.hidden = left < -1 || right > xaxis._length + 1 || top < -1 || bottom > yaxis._length + 1;
      Object.assign(cursor.style, { left: xaxis._offset + left + "px", top: yaxis._offset + top + "px", width: right - left + "px", height: bottom - top + "px" });
    };
    const choose = (row, column) => {
      at = [row, column];
      readout.textContent = readings(box, row, column);
      readout.classList.remove("empty");
      outline();
    };
    const play = () => {
      const position = meta.columns[at[1]], start = meta.start_s[position], end = meta.end_s[position];
      if (sound && end > start) sound.stretch(start, end);
    };
    const roomy = () => {
      const { xaxis } = box._fullLayout, [from, to] = xaxis.range, last = box.data[0].customdata[0].length;
      let shown = 0;
      for (let column = 0; column < last; column += 1) shown += edges(column)[1] > from && edges(column)[0] < to;
      const template = xaxis._length / shown >= ROOM ? "%{text}" : "";
      if ((box.data[0].texttemplate || "") !== template) Plotly.restyle(box, { texttemplate: template }, [0]);
    };
    if (!box.layout.width) box.on("plotly_relayout", roomy);
    box.on("plotly_afterplot", outline);
    box.on("plotly_click", ({ points }) => {
      const cell = points.find((point) => point.curveNumber === 0);
      if (!cell) return;
      choose(...cell.pointNumber);
      play();
    });
    box.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      const rows = box.data[0].customdata.length, columns = box.data[0].customdata[0].length;
      if (event.key === "Home") choose(rows - 1, 0);
      else if (step) choose(...(at ? [Math.min(rows - 1, Math.max(0, at[0] + step[0])), Math.min(columns - 1, Math.max(0, at[1] + step[1]))] : [rows - 1, 0]));
      else if (at && (event.key === "Enter" || event.key === " ")) play();
      else return;
      event.preventDefault();
      const { xaxis } = box._fullLayout, strip = box.parentElement, left = xaxis._offset + xaxis.l2p(edges(at[1])[0]);
      if (left < strip.scrollLeft + xaxis._offset || left > strip.scrollLeft + strip.clientWidth - 60) strip.scrollLeft = left - strip.clientWidth / 2;
    });
  }

  /* ---- a section ---- */

  function link(section, boxes) {
    const audio = section.querySelector("audio");
    const sound = audio ? new Sound(audio) : null;
    for (const box of boxes) {
      if (box.slm.role === "grid") cells(box, sound);
      if (!sound || !box.slm.axis) continue;
      playhead(box, sound);
      if (box.slm.role === "waveform") clicksOnWaveform(box, sound);
      box.on("plotly_clickannotation", ({ index }) => {
        const word = box.slm.words[index];
        if (word) sound.stretch(...secondsOfWord(box.slm, word));
      });
    }
    if (!sound) return;
    const buttons = [...section.querySelectorAll(".words button")];
    for (const button of buttons) button.addEventListener("click", () => sound.stretch(+button.dataset.start, +button.dataset.end));
    sound.watchers.push((second, playing) => {
      for (const button of buttons) button.classList.toggle("now", playing && +button.dataset.start <= second && second < +button.dataset.end);
    });
    sound.tell();
  }

  async function start() {
    const all = [];
    for (const section of document.querySelectorAll("section")) {
      const boxes = [];
      for (const figure of section.querySelectorAll("figure[data-figure]")) boxes.push(await draw(figure));
      link(section, boxes);
      all.push(...boxes);
    }
    dark.addEventListener("change", () => all.forEach((box) => Plotly.relayout(box, colours())));
    addEventListener("beforeprint", () => all.forEach((box) => {
      box.screenWidth = box.layout.width;
      Plotly.relayout(box, { width: PRINTED, "font.color": "#1f2933" });
      box.classList.toggle("tight", box.slm.role === "grid" && PRINTED / box.slm.columns.length < ROOM);
    }));
    addEventListener("afterprint", () => all.forEach((box) => Plotly.relayout(box, { ...colours(), width: box.screenWidth, autosize: !box.screenWidth })));
    document.documentElement.dataset.ready = "yes";
  }
  start();
})();
