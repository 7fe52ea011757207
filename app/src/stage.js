// The picture with its section and the class map over it.
import { $, el, icon } from "./dom.js";
import { drawMap } from "./heatmap.js";
import { t } from "./messages.js";

const STEP = 0.02; // of the shorter side, for one press of an arrow key
const SMALLEST = 0.15;

export class Stage {
  // `seen(width, height)`: the model's own section; `changed()`: the person moved something.
  constructor(root, seen, changed) {
    Object.assign(this, { root, seen, changed, photo: null, map: null, opacity: 0.6 });
    this.build();
    new ResizeObserver(() => this.draw()).observe(this.frame);
  }

  build() {
    this.canvas = el("canvas", { role: "img" });
    this.box = el("div", { class: "box", tabindex: 0, role: "group" }, el("span", { class: "corner" }));
    this.frame = el("div", { class: "frame" }, this.canvas, this.box);
    this.size = el("input", { type: "range", min: 15, max: 100, value: 100 });
    this.sizeText = el("span");
    const button = (name, key, act) => el("button", {
      type: "button", class: "round", onclick: act, "aria-label": t(key), title: t(key), "data-t-attribute": `aria-label:${key} title:${key}`,
    }, icon(name));
    this.tools = el("div", { class: "tools" },
      el("label", { class: "slider" }, this.sizeText, this.size),
      button("left", "stage.left", () => this.rotate(-1)),
      button("right", "stage.right", () => this.rotate(1)),
      button("reset", "stage.reset", () => { this.photo.reset(); this.edited(); }));
    this.root.replaceChildren(this.frame, this.tools);
    this.words();
    this.size.addEventListener("input", () => this.resize(this.size.value / 100));
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("pointerdown", (event) => this.grab(event));
    this.frame.addEventListener("click", (event) => this.centre(event));
  }

  words() {
    this.sizeText.textContent = t("stage.size");
    this.sizeText.dataset.t = "stage.size";
    this.box.setAttribute("aria-label", t("stage.box"));
    this.canvas.setAttribute("aria-label", t("stage.picture", { name: this.photo?.name ?? "" }));
  }

  show(photo) {
    Object.assign(this, { photo, map: null });
    this.words();
    this.draw();
  }

  hide() {
    Object.assign(this, { photo: null, map: null });
  }

  // `values`: [px][px] of one class, or null.
  setMap(values, px) {
    this.map = values && { values, px };
    this.draw();
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    this.draw();
  }

  section() {
    return this.photo.box ?? this.seen(this.photo.width, this.photo.height);
  }

  draw() {
    const { photo, canvas } = this;
    if (!photo) return;
    this.frame.style.setProperty("--ratio", photo.width / photo.height);
    const shown = this.frame.clientWidth * devicePixelRatio;
    const scale = Math.min(1, (shown || photo.width) / photo.width);
    canvas.width = Math.max(1, Math.round(photo.width * scale));
    canvas.height = Math.max(1, Math.round(photo.height * scale));
    const context = canvas.getContext("2d");
    this.drawPicture(context, scale);
    const { left, top, width, height } = this.section();
    const part = [left * scale, top * scale, width * scale, height * scale];
    if (this.map) drawMap(context, this.map, part, this.opacity);
    this.dim(context, part);
    this.place();
  }

  drawPicture(context, scale) {
    const { photo } = this;
    context.save();
    context.scale(scale, scale);
    context.translate(photo.width / 2, photo.height / 2);
    context.rotate((photo.turn * Math.PI) / 2);
    context.drawImage(photo.bitmap, -photo.bitmap.width / 2, -photo.bitmap.height / 2);
    context.restore();
  }

  // What the model does not see lies in shadow.
  dim(context, part) {
    context.beginPath();
    context.rect(0, 0, context.canvas.width, context.canvas.height);
    context.rect(...part);
    context.fillStyle = "rgb(0 0 0 / 45%)";
    context.fill("evenodd");
  }

  place() {
    const { width, height } = this.photo;
    const part = this.section();
    const share = (value, whole) => `${(100 * value) / whole}%`;
    Object.assign(this.box.style, {
      left: share(Math.max(0, part.left), width), top: share(Math.max(0, part.top), height),
      width: share(Math.min(part.width, width), width), height: share(Math.min(part.height, height), height),
    });
    this.size.value = Math.round((100 * Math.min(part.width, part.height)) / Math.min(width, height));
  }

  // The section as a square of `side` pixels around a point, kept inside the picture.
  put(x, y, side) {
    const { width, height } = this.photo;
    const shorter = Math.min(width, height);
    const size = Math.round(Math.min(shorter, Math.max(SMALLEST * shorter, side, 8)));
    const into = (value, whole) => Math.round(Math.min(whole - size, Math.max(0, value - size / 2)));
    this.photo.box = { left: into(x, width), top: into(y, height), width: size, height: size };
    this.edited();
  }

  middle() {
    const { left, top, width, height } = this.section();
    return { x: left + width / 2, y: top + height / 2, side: Math.min(width, height) };
  }

  edited() {
    this.map = null; // of another section
    this.draw();
    this.changed();
  }

  rotate(quarters) {
    this.photo.rotate(quarters);
    this.edited();
  }

  resize(share) {
    const { x, y } = this.middle();
    this.put(x, y, share * Math.min(this.photo.width, this.photo.height));
  }

  key(event) {
    const step = STEP * Math.min(this.photo.width, this.photo.height);
    const moves = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0], "+": [0, 0, 2], "-": [0, 0, -2] };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const { x, y, side } = this.middle();
    this.put(x + move[0] * step, y + move[1] * step, side + move[2] * step);
  }

  point(event) {
    const area = this.frame.getBoundingClientRect();
    const scale = this.photo.width / area.width;
    return { x: (event.clientX - area.left) * scale, y: (event.clientY - area.top) * scale };
  }

  // A tap outside of the section centres it there: dragging is never the only way.
  centre(event) {
    if (event.target !== this.canvas || !this.photo) return;
    const { x, y } = this.point(event);
    this.put(x, y, this.middle().side);
  }

  grab(event) {
    const first = this.point(event);
    const { x, y, side } = this.middle();
    const corner = event.target === $(".corner", this.box);
    const move = (next) => {
      const { x: toX, y: toY } = this.point(next);
      if (corner) this.put(x, y, 2 * Math.max(toX - x, toY - y));
      else this.put(x + toX - first.x, y + toY - first.y, side);
    };
    const end = () => this.box.removeEventListener("pointermove", move);
    this.box.setPointerCapture(event.pointerId);
    this.box.addEventListener("pointermove", move);
    this.box.addEventListener("pointerup", end, { once: true });
    this.box.addEventListener("pointercancel", end, { once: true });
  }
}
