"use strict";
/* Draw a run: pods over time with a mark a copy, and below it how late copies were. What it draws is said in sim/results/picture.py.

   runPicture(root, data) fills an element and returns {update(data)}: a page that goes on may call it again and again. */
(() => {
  const LEFT = 168, RIGHT = 14, TOP = 34, BOTTOM = 24, HEAT = 190, NEAR = 7, NARROW = 620, LEAST = 0.3;
  const INK = "#1c2024", SOFT = "#5b6470", LINE = "#d5dae0", SHADE = "#e9ebee";

  function decode(text, Kind) {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let n = 0; n < raw.length; n++) bytes[n] = raw.charCodeAt(n);
    return new Kind(bytes.buffer);
  }

  function element(tag, parent, attributes = {}, text = "") {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    parent.append(made);
    return made;
  }

  const eventId = (key) => "evt_" + key.toString(16).padStart(16, "0");
  const number = (value) => value.toLocaleString("en-US");
  const seconds = (value) => `${value.toFixed(3)} s`;

  function milliseconds(value) {
    if (value >= 1000) return `${+(value / 1000).toPrecision(3)} s`;
    return value >= 1 ? `${+value.toPrecision(3)} ms` : `${+(value * 1000).toPrecision(3)} us`;
  }

  function unpack(data) {
    const events = data.events, columns = data.marks || data.cells;
    const read = {
      lane: decode(columns.lane, Uint16Array), kind: decode(columns.kind, Uint8Array), event: decode(columns.event, Uint32Array),
      key: decode(events.key, BigUint64Array), channel: decode(events.channel, Uint16Array),
      publisher: decode(events.publisher, Uint16Array), at: decode(events.at, Float64Array),
    };
    if (data.marks) {
      read.lag = decode(columns.lag, Float32Array);
      read.begin = Float64Array.from(read.event, (event) => read.at[event]);
      read.width = 0;
    } else {
      const bins = decode(columns.bin, Uint16Array);
      read.many = decode(columns.many, Uint32Array);
      read.width = columns.width;
      read.begin = Float64Array.from(bins, (bin) => data.from + bin * columns.width);
      /* Of what is in a block, which share did not arrive: each kind adds to those before it, as it is drawn over them. */
      const whole = new Map(), gone = new Map(), place = (n) => read.lane[n] * 65536 + bins[n];
      for (let n = 0; n < bins.length; n++) whole.set(place(n), (whole.get(place(n)) || 0) + read.many[n]);
      read.share = new Float64Array(bins.length);
      const came = (n) => ["delivered", "taken-by-peer"].includes(data.kinds[read.kind[n]].key);
      const late = Array.from(bins.keys()).filter((n) => !came(n)).sort((a, b) => rank(data.kinds[read.kind[b]]) - rank(data.kinds[read.kind[a]]));
      for (const n of late) {
        gone.set(place(n), (gone.get(place(n)) || 0) + read.many[n]);
        read.share[n] = gone.get(place(n)) / whole.get(place(n));
      }
    }
    const total = {};
    for (let n = 0; n < read.kind.length; n++) total[read.kind[n]] = (total[read.kind[n]] || 0) + (read.many ? read.many[n] : 1);
    read.total = total;
    read.order = Object.keys(data.kinds).sort((a, b) => rank(data.kinds[a]) - rank(data.kinds[b]));
    read.heat = {
      bin: decode(data.lag.bin, Uint16Array), step: decode(data.lag.step, Uint8Array), many: decode(data.lag.many, Uint32Array),
    };
    return read;
  }

  /* What arrived is drawn first, so that nothing hides what was lost. */
  const rank = (kind) => ["taken-by-peer", "delivered", "duplicate", "unexpected", "unknown", "missing"].indexOf(kind.key);

  class Picture {
    constructor(root, data) {
      this.root = root;
      root.textContent = "";
      this.bar = element("div", root, { class: "tools" });
      this.lanes = this.canvas("Pods from top to bottom, time from left to right, a mark for each copy of an event");
      this.tip = element("div", root, { class: "tip", hidden: "" });
      this.heatTitle = element("h3", root, {}, "How late copies were");
      this.heat = this.canvas("Lag from bottom to top, time from left to right, darker where more copies are");
      this.said = element("div", root, { class: "said", "aria-live": "polite" });
      this.hidden = new Set();
      this.update(data);
      this.listen();
    }

    canvas(label) {
      const box = element("div", this.root, { class: "canvas" });
      return element("canvas", box, { role: "img", tabindex: "0", "aria-label": label });
    }

    update(data) {
      this.data = data;
      this.ways = this.walked = this.chosen = undefined;
      this.read = unpack(data);
      this.view = [data.from, data.to];
      this.tools();
      this.draw();
    }

    tools() {
      this.bar.textContent = "";
      const legend = element("div", this.bar, { class: "legend", role: "group", "aria-label": "Show or hide" });
      for (const code of this.read.order) {
        const kind = this.data.kinds[code], label = kind.cause && kind.key === "missing" ? `${kind.fate}: ${kind.cause}` : kind.fate;
        const button = element("button", legend, { type: "button", "aria-pressed": String(!this.hidden.has(code)), title: kind.meaning });
        const swatch = element("span", button, { class: `swatch ${kind.key}`, "aria-hidden": "true" });
        swatch.style.background = kind.colour;
        button.append(` ${label} ${number(this.read.total[code])}`);
        button.onclick = () => {
          this.hidden.has(code) ? this.hidden.delete(code) : this.hidden.add(code);
          button.setAttribute("aria-pressed", String(!this.hidden.has(code)));
          this.draw();
        };
      }
      const zoom = element("div", this.bar, { class: "zoom", role: "group", "aria-label": "Zoom" });
      for (const [sign, label, act] of [["+", "Zoom in", () => this.zoom(0.5)], ["\u2212", "Zoom out", () => this.zoom(2)],
        ["all", "Show all of the run", () => this.look(this.data.from, this.data.to)]]) {
        element("button", zoom, { type: "button", "aria-label": label, title: label }, sign).onclick = act;
      }
      element("span", zoom, { class: "soft" }, "drag to zoom, click a mark");
    }

    zoom(by, at = (this.view[0] + this.view[1]) / 2) {
      this.look(at + (this.view[0] - at) * by, at + (this.view[1] - at) * by);
    }

    look(from, to) {
      const { from: first, to: last } = this.data, width = Math.min(Math.max(to - from, 1e-4), last - first);
      const begin = Math.min(Math.max(from, first), last - width);
      this.view = [begin, begin + width];
      this.tip.hidden = true;
      this.draw();
    }

    /* Size a canvas by its place on the page and return its pen, in CSS pixels. */
    pen(canvas, height) {
      const ratio = Math.max(window.devicePixelRatio || 1, 1), width = Math.max(canvas.parentElement.clientWidth, 280);
      canvas.width = width * ratio;
      canvas.height = height * ratio;
      canvas.style.height = `${height}px`;
      const pen = canvas.getContext("2d");
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, width, height);
      pen.font = "12px system-ui, sans-serif";
      pen.textBaseline = "middle";
      this.width = width;
      this.left = width < NARROW ? 96 : LEFT;
      return pen;
    }

    x(at) {
      return this.left + ((at - this.view[0]) / (this.view[1] - this.view[0])) * (this.width - this.left - RIGHT);
    }

    at(x) {
      return this.view[0] + ((x - this.left) / (this.width - this.left - RIGHT)) * (this.view[1] - this.view[0]);
    }

    draw() {
      this.drawLanes();
      this.drawHeat();
    }

    drawLanes() {
      const lanes = this.data.lanes, height = this.place(), pen = this.pen(this.lanes, height);
      this.background(pen, height);
      lanes.forEach((lane, n) => {
        const y = this.top[n], tall = this.tall[n], begins = !n || lanes[n - 1].service !== lane.service;
        pen.fillStyle = begins ? SOFT : LINE;
        pen.fillRect(begins ? 0 : this.left, y, this.width, begins ? 0.6 : 0.4);
        pen.fillStyle = INK;
        if (tall >= 13 || begins) {
          const name = tall >= 13 ? lane.name : `${lane.service} (${lanes.filter((one) => one.service === lane.service)
            .reduce((sum, one) => sum + one.pods, 0)})`;
          this.label(pen, name, y + (tall >= 13 ? tall / 2 : 7));
        }
      });
      for (const [lane, begin, end, word] of this.data.away) {
        const y = this.top[lane], tall = this.tall[lane];
        pen.fillStyle = word === "ended" || word === "no pod" ? "#c9ced5" : "#dfe3e8";
        pen.fillRect(this.x(begin), y + tall * 0.08, Math.max(this.x(end) - this.x(begin), 1), tall * 0.84);
      }
      this.clip(pen, height);
      for (const code of this.read.order) if (!this.hidden.has(code)) this.drawKind(pen, Number(code));
      if (this.chosen !== undefined) this.drawChosen(pen);
      pen.restore();
      this.axis(pen, height);
    }

    /* Give each lane its place: thin where they are many, but every service has room for its name. Return the height of all. */
    place() {
      const lanes = this.data.lanes, thin = Math.min(Math.max(400 / lanes.length, 4), 44), of = {};
      for (const lane of lanes) of[lane.service] = (of[lane.service] || 0) + 1;
      this.tall = lanes.map((lane) => Math.max(thin, 14 / of[lane.service]));
      let y = TOP;
      this.top = this.tall.map((tall) => { const own = y; y += tall; return own; });
      return y + BOTTOM;
    }

    label(pen, text, y) {
      let cut = 0; /* out of the middle, as the end tells one pod from another */
      const shown = () => (cut ? `${text.slice(0, Math.ceil((text.length - cut) / 2))}\u2026${text.slice(Math.ceil((text.length + cut) / 2))}` : text);
      while (cut < text.length - 3 && pen.measureText(shown()).width > this.left - 8) cut++;
      pen.fillText(shown(), 2, y);
    }

    clip(pen, height) {
      pen.save();
      pen.beginPath();
      pen.rect(this.left, TOP - 12, this.width - this.left - RIGHT + 1, height);
      pen.clip();
    }

    drawKind(pen, code) {
      const read = this.read, kind = this.data.kinds[code], came = kind.key === "delivered" || kind.key === "taken-by-peer";
      const [from, to] = this.view, scale = (this.width - this.left - RIGHT) / (to - from);
      pen.fillStyle = kind.colour;
      pen.globalAlpha = read.many || !came ? 1 : 0.75;
      for (let n = 0; n < read.kind.length; n++) {
        if (read.kind[n] !== code || read.begin[n] + read.width < from || read.begin[n] > to) continue;
        const x = this.left + (read.begin[n] - from) * scale, y = this.top[read.lane[n]], tall = this.tall[read.lane[n]];
        if (read.many) {
          const wide = Math.max(read.width * scale, 1);
          if (came) pen.fillRect(x, y + (tall > 8 ? tall * 0.3 : tall * 0.1), wide, tall > 8 ? tall * 0.4 : tall * 0.8);
          else {
            const share = Math.max(read.share[n], LEAST) * tall * 0.88;
            pen.fillRect(x, y + tall * 0.94 - share, Math.max(wide, 1.6), share);
          }
        } else if (came) {
          const spread = ((read.event[n] * 2654435761) >>> 0) / 4294967296;
          pen.fillRect(x - 0.8, y + 2 + spread * (tall - 5.6), 1.7, 1.7);
        } else {
          pen.fillRect(x - 0.9, y + tall * 0.08, 1.8, tall * 0.84);
        }
      }
      pen.globalAlpha = 1;
    }

    drawChosen(pen) {
      const read = this.read;
      pen.strokeStyle = INK;
      pen.lineWidth = 1.6;
      for (let n = 0; n < read.kind.length; n++) {
        if (read.event[n] !== this.chosen || (read.many && this.arrived(n))) continue;
        pen.strokeRect(this.x(read.begin[n]) - 3.5, this.top[read.lane[n]] + 0.5, 7, this.tall[read.lane[n]] - 1);
      }
    }

    background(pen, height, top = TOP) {
      pen.save();
      this.data.faults.forEach((fault, n) => {
        const begin = Math.max(this.x(fault.from), this.left), end = Math.min(this.x(fault.to), this.width - RIGHT);
        if (end <= this.left || begin >= this.width - RIGHT) return;
        pen.fillStyle = SHADE;
        pen.fillRect(begin, top, Math.max(end - begin, 1.5), height - top - BOTTOM);
        pen.strokeStyle = "#b6bcc5";
        pen.beginPath();
        for (let x = begin - (height - top); x < end; x += 9) {
          const low = Math.max(x, begin), high = Math.min(x + height - top - BOTTOM, end);
          if (high > low) { pen.moveTo(low, height - BOTTOM - (low - x)); pen.lineTo(high, height - BOTTOM - (high - x)); }
        }
        pen.lineWidth = 0.5;
        pen.stroke();
        pen.fillStyle = INK;
        if (top === TOP) pen.fillText(fault.name, begin + 3, TOP - 8 - 12 * (n % 2));
      });
      for (const phase of this.data.phases) {
        const x = this.x(phase.at);
        if (x < this.left + 1 || x > this.width - RIGHT) continue;
        pen.strokeStyle = SOFT;
        pen.lineWidth = 1;
        pen.setLineDash([2, 3]);
        pen.beginPath();
        pen.moveTo(x, TOP - 4);
        pen.lineTo(x, height - BOTTOM);
        pen.stroke();
        pen.setLineDash([]);
      }
      pen.restore();
    }

    axis(pen, height) {
      const width = this.view[1] - this.view[0], places = Math.max((this.width - this.left) / 90, 2);
      const raw = width / places, power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].find((one) => one * power >= raw) * power;
      pen.fillStyle = SOFT;
      pen.fillRect(this.left, height - BOTTOM, this.width - this.left - RIGHT, 0.8);
      pen.textAlign = "center";
      const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
      for (let at = Math.ceil(this.view[0] / step) * step; at <= this.view[1] + 1e-9; at += step) {
        pen.fillRect(this.x(at), height - BOTTOM, 0.8, 4);
        pen.fillText(`${at.toFixed(digits).replace(/^-0$/, "0")} s`, Math.min(this.x(at), this.width - 16), height - 10);
      }
      pen.textAlign = "left";
    }

    drawHeat() {
      const edges = this.data.lag.edges_ms, heat = this.read.heat;
      this.heat.parentElement.hidden = this.heatTitle.hidden = !heat.bin.length;
      if (!heat.bin.length) return;
      const limits = this.data.lag.limits, pen = this.pen(this.heat, HEAT);
      const low = Math.log(Math.min(Math.max(edges[0], 1e-4), ...limits.map((one) => one.ms))) - 0.2;
      const high = Math.log(Math.max(edges[edges.length - 1], ...limits.map((one) => one.ms * 1.3)));
      const y = (ms) => HEAT - BOTTOM - ((Math.log(Math.max(ms, 1e-4)) - low) / (high - low)) * (HEAT - BOTTOM - TOP + 14);
      this.background(pen, HEAT, 12);
      let most = 1;
      for (const many of heat.many) most = Math.max(most, many);
      this.clip(pen, HEAT);
      for (let n = 0; n < heat.bin.length; n++) {
        const begin = this.data.from + heat.bin[n] * this.data.lag.width, wide = this.x(begin + this.data.lag.width) - this.x(begin);
        if (begin + this.data.lag.width < this.view[0] || begin > this.view[1]) continue;
        const share = most > 1 ? Math.log(heat.many[n]) / Math.log(most) : 1, top = y(edges[heat.step[n] + 1]);
        pen.fillStyle = `hsl(204 ${60 + 30 * share}% ${72 - 52 * share}%)`;
        pen.fillRect(this.x(begin), top, Math.max(wide, 1.5), Math.max(y(edges[heat.step[n]]) - top, 1.5));
      }
      pen.restore();
      pen.fillStyle = SOFT;
      let last = HEAT;
      for (let ms = 1e-4; ms < 1e7; ms *= 10) {
        if (Math.log(ms) < low || Math.log(ms) > high || last - y(ms) < 14) continue;
        last = y(ms);
        pen.fillRect(this.left, last, this.width - this.left - RIGHT, 0.25);
        pen.textAlign = "right";
        pen.fillText(milliseconds(ms), this.left - 6, last);
        pen.textAlign = "left";
      }
      for (const limit of limits) {
        pen.strokeStyle = INK;
        pen.lineWidth = 1.6;
        pen.setLineDash([5, 3]);
        pen.beginPath();
        pen.moveTo(this.left, y(limit.ms));
        pen.lineTo(this.width - RIGHT, y(limit.ms));
        pen.stroke();
        pen.setLineDash([]);
        pen.fillStyle = INK;
        pen.font = "600 12px system-ui, sans-serif";
        pen.fillText(limit.label, this.left + 6, y(limit.ms) - 8);
      }
      this.heatY = { y, edges };
      this.axis(pen, HEAT);
    }

    /* Return the mark under a point, one that did not arrive before one that did, or -1. */
    near(x, y) {
      const lane = this.top.findIndex((top, n) => y >= top && y < top + this.tall[n]), read = this.read;
      let best = -1, least = Infinity;
      for (let n = 0; n < read.kind.length; n++) {
        if (read.lane[n] !== lane || this.hidden.has(String(read.kind[n]))) continue;
        const begin = this.x(read.begin[n]), end = this.x(read.begin[n] + read.width);
        let away = x < begin ? begin - x : x > end ? x - end : 0;
        if (away > NEAR) continue;
        if (this.arrived(n)) away += 3.5;
        if (away < least) { least = away; best = n; }
      }
      return best;
    }

    arrived(n) {
      return this.data.kinds[this.read.kind[n]].key === "delivered" || this.data.kinds[this.read.kind[n]].key === "taken-by-peer";
    }

    words(n) {
      const read = this.read, kind = this.data.kinds[read.kind[n]], lane = this.data.lanes[read.lane[n]];
      const fate = kind.cause ? `${kind.fate}: ${kind.cause} (${kind.meaning})` : kind.fate;
      if (read.many && this.arrived(n)) {
        return `${number(read.many[n])} copies of ${lane.name} ${kind.fate}, from ${seconds(read.begin[n])} to ${seconds(read.begin[n] + read.width)}`;
      }
      const event = read.event[n], who = this.data.events.publishers[read.publisher[event]] || "nobody in this run";
      const about = `${eventId(read.key[event])} on ${this.data.events.channels[read.channel[event]] || "an unknown channel"} from ${who}`;
      if (read.many) {
        const until = seconds(read.begin[n] + read.width);
        return `${number(read.many[n])} copies of ${lane.name} ${fate}, from ${seconds(read.begin[n])} to ${until}; first: ${about}`;
      }
      const late = read.lag[n] >= 0 ? `, after ${milliseconds(read.lag[n])}` : "";
      return `${about}, meant at ${seconds(read.at[event])}; ${lane.name}: ${fate}${late}`;
    }

    choose(n) {
      const read = this.read;
      this.said.textContent = "";
      this.chosen = undefined;
      if (n >= 0 && !(read.many && this.arrived(n))) {
        const event = read.event[n], id = eventId(read.key[event]);
        this.chosen = event;
        const title = element("p", this.said);
        element("strong", title, {}, this.words(n));
        if (read.lag) {
          const list = element("ul", this.said);
          for (let m = 0; m < read.kind.length; m++) {
            if (read.event[m] !== event) continue;
            const kind = this.data.kinds[read.kind[m]], late = read.lag[m] >= 0 ? ` after ${milliseconds(read.lag[m])}` : "";
            const item = element("li", list);
            element("span", item, { class: `swatch ${kind.key}`, "aria-hidden": "true" }).style.background = kind.colour;
            item.append(` ${this.data.lanes[read.lane[m]].name}: ${kind.fate}${kind.cause ? `, ${kind.cause}` : ""}${late}`);
          }
        }
        const way = element("p", this.said);
        if (document.getElementById(`story-${id}`)) element("a", way, { href: `#story-${id}` }, "its story");
        else { way.append("its story: "); element("code", way, {}, `buslab story ${this.data.folder || "RUN"} ${id}`); }
      } else if (n >= 0) this.said.textContent = this.words(n);
      this.drawLanes();
    }

    /* Choose the next mark, in time, that did not arrive. */
    step(by) {
      const read = this.read;
      this.ways = this.ways || Array.from(read.kind.keys()).filter((n) => !this.arrived(n)).sort((a, b) => read.begin[a] - read.begin[b]);
      if (!this.ways.length) return;
      this.walked = this.walked === undefined ? (by > 0 ? 0 : this.ways.length - 1) : (this.walked + by + this.ways.length) % this.ways.length;
      this.choose(this.ways[this.walked]);
    }

    listen() {
      for (const canvas of [this.lanes, this.heat]) {
        const own = canvas === this.lanes;
        canvas.onpointerdown = (press) => { this.drag = this.point(canvas, press)[0]; canvas.setPointerCapture(press.pointerId); };
        canvas.onpointermove = (move) => {
          const [x, y] = this.point(canvas, move);
          if (this.drag !== undefined && Math.abs(x - this.drag) > 4) this.band(canvas, this.drag, x);
          else this.show(canvas, x, y, own ? this.wordsAt(x, y) : this.heatWords(x, y));
        };
        canvas.onpointerup = (release) => {
          const [x, y] = this.point(canvas, release), from = this.drag;
          this.drag = undefined;
          if (from !== undefined && Math.abs(x - from) > 4) this.look(this.at(Math.min(from, x)), this.at(Math.max(from, x)));
          else if (own) this.choose(this.near(x, y));
        };
        canvas.onpointerleave = () => { this.tip.hidden = true; };
        canvas.ondblclick = () => this.look(this.data.from, this.data.to);
        canvas.onkeydown = (key) => {
          const width = this.view[1] - this.view[0];
          const act = {
            "+": () => this.zoom(0.5), "-": () => this.zoom(2), 0: () => this.look(this.data.from, this.data.to),
            ArrowLeft: () => this.look(this.view[0] - width / 4, this.view[1] - width / 4),
            ArrowRight: () => this.look(this.view[0] + width / 4, this.view[1] + width / 4),
            n: () => this.step(1), p: () => this.step(-1),
          }[key.key];
          if (act && !key.ctrlKey && !key.metaKey && !key.altKey) { act(); key.preventDefault(); }
        };
      }
      const again = () => this.draw();
      window.addEventListener("resize", again);
      window.addEventListener("beforeprint", again);
      window.addEventListener("afterprint", again);
    }

    point(canvas, event) {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    }

    band(canvas, from, to) {
      this.draw();
      const pen = canvas.getContext("2d");
      pen.fillStyle = "rgba(0, 90, 160, .18)";
      pen.fillRect(Math.min(from, to), TOP, Math.abs(to - from), canvas.clientHeight - TOP - BOTTOM);
    }

    wordsAt(x, y) {
      const n = this.near(x, y);
      if (n >= 0) return this.words(n);
      const fault = this.data.faults.find((one) => x >= this.x(one.from) && x <= this.x(one.to));
      return fault && y > 0 ? `${fault.name} of ${fault.target}, from ${seconds(fault.from)} to ${seconds(fault.to)}` : "";
    }

    heatWords(x, y) {
      const { bin, step, many } = this.read.heat, place = Math.floor((this.at(x) - this.data.from) / this.data.lag.width), scale = this.heatY;
      for (let n = 0; n < bin.length; n++) {
        if (bin[n] !== place || y > scale.y(scale.edges[step[n]]) || y < scale.y(scale.edges[step[n] + 1])) continue;
        const begin = this.data.from + place * this.data.lag.width, from = milliseconds(scale.edges[step[n]]);
        return `${number(many[n])} copies meant from ${seconds(begin)} to ${seconds(begin + this.data.lag.width)}, ` +
          `handled ${from} to ${milliseconds(scale.edges[step[n] + 1])} later`;
      }
      return "";
    }

    show(canvas, x, y, text) {
      this.tip.hidden = !text;
      if (!text) return;
      this.tip.textContent = text;
      const box = canvas.getBoundingClientRect(), root = this.root.getBoundingClientRect();
      const left = Math.min(box.left - root.left + x + 12, root.width - this.tip.offsetWidth - 4);
      this.tip.style.left = `${Math.max(left, 0)}px`;
      this.tip.style.top = `${box.top - root.top + y + 16}px`;
    }
  }

  /* A link to a story opens it, and on paper everything is open. */
  const open = () => {
    const story = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (story && story.tagName === "DETAILS") { story.open = true; story.scrollIntoView(); }
  };
  window.addEventListener("hashchange", open);
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
  open();

  window.runPicture = (root, data) => new Picture(root, data);
  const place = document.getElementById("run-picture"), found = document.getElementById("run-picture-data");
  if (place && found) window.runPicture(place, JSON.parse(found.textContent));
})();
