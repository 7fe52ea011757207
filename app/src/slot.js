// One picture with everything around it: ways in, stage, answer. A page has one, a comparison two.
import { el, icon } from "./dom.js";
import { showAnswer, spoken } from "./answer.js";
import { takePhoto } from "./camera.js";
import { classMap } from "./heatmap.js";
import { t } from "./messages.js";
import { Photo, droppedFiles } from "./photo.js";
import { Stage } from "./stage.js";

const PATIENCE_MS = 120; // after the last movement of the section

export class Slot {
  // `title`: message key of its heading; `answered(answer)`: called with every new answer, or null.
  constructor(root, model, title, answered = () => {}) {
    Object.assign(this, { root, model, title, answered, photo: null, answer: null, chosen: null, asked: 0 });
    this.build();
  }

  build() {
    this.input = el("input", { type: "file", accept: "image/*", class: "hidden", tabindex: -1, "aria-hidden": "true" });
    this.input.addEventListener("change", () => this.take(this.input.files[0]));
    this.door = this.buildDoor();
    this.stageRoot = el("div", { class: "stage" });
    this.panel = el("div", { class: "answer" });
    this.map = this.buildMap();
    this.another = el("button", { type: "button", class: "quiet", onclick: () => this.clear() }, icon("close"), el("span", { "data-t": "slot.another" }, t("slot.another")));
    this.work = el("div", { class: "work", hidden: true },
      el("div", { class: "left card" }, el("h2", { class: "caption", "data-t": this.title }, t(this.title)), this.stageRoot, this.map, el("div", { class: "end" }, this.another)), el("div", { class: "right card" }, this.panel));
    this.status = el("p", { class: "status", role: "status" });
    this.root.replaceChildren(this.input, this.door, this.status, this.work);
    this.stage = new Stage(this.stageRoot, (width, height) => this.model.seen(width, height), () => this.soon());
    this.root.addEventListener("dragover", (event) => { event.preventDefault(); this.root.classList.add("over"); });
    this.root.addEventListener("dragleave", () => this.root.classList.remove("over"));
    this.root.addEventListener("drop", (event) => this.drop(event));
  }

  buildDoor() {
    const button = (name, key, style, act) =>
      el("button", { type: "button", class: style, onclick: act }, icon(name), el("span", { "data-t": key }, t(key)));
    return el("div", { class: "door" },
      el("span", { class: "lens", "aria-hidden": "true" }, icon("lens")),
      el("h2", { "data-t": this.title }, t(this.title)),
      el("p", { "data-t": "slot.help" }, t("slot.help")),
      el("div", { class: "buttons" },
        button("image", "slot.choose", "primary choose", () => this.input.click()),
        button("camera", "slot.camera", "camera", () => this.photograph())),
      el("p", { class: "private" }, icon("lock"), el("span", { "data-t": "slot.private" }, t("slot.private"))));
  }

  buildMap() {
    this.opacity = el("input", { type: "range", min: 0, max: 100, value: 60 });
    this.opacity.addEventListener("input", () => this.stage.setOpacity(this.opacity.value / 100));
    return el("label", { class: "slider map", hidden: true }, el("span", { "data-t": "slot.map" }, t("slot.map")), this.opacity,
      el("span", { class: "scale", "aria-hidden": "true" }));
  }

  async drop(event) {
    event.preventDefault();
    this.root.classList.remove("over");
    const [file] = await droppedFiles(event.dataTransfer);
    if (file) this.take(file);
    else this.say(t("error.noimage"), true);
  }

  async photograph() {
    try {
      const blob = await takePhoto();
      if (blob) this.take(blob, t("camera.name"));
    } catch {
      this.say(t("error.camera"), true);
    }
  }

  // A file or a pasted or photographed blob.
  async take(blob, name) {
    this.input.value = ""; // the same file may be chosen again
    if (!blob) return;
    let photo;
    try {
      photo = await Photo.open(blob, name);
    } catch {
      this.say(t("error.decode"), true);
      return;
    }
    try {
      await this.model.described;
    } catch {
      this.say(t("state.failed"), true);
      return;
    }
    this.photo?.close();
    Object.assign(this, { photo, answer: null, chosen: null });
    const held = this.door.contains(document.activeElement);
    this.door.hidden = true;
    this.work.hidden = false;
    if (held) this.stage.box.focus(); // else the keyboard would begin again at the top
    const wait = this.model.name ? "slot.asking" : "state.loading";
    this.panel.replaceChildren(el("p", { class: "lead", "data-t": wait }, t(wait)));
    this.stage.show(photo);
    await this.ask();
  }

  clear() {
    this.stage.hide(); // before its picture is gone
    this.photo?.close();
    Object.assign(this, { photo: null, answer: null });
    this.asked++;
    this.panel.replaceChildren();
    this.work.hidden = true;
    this.door.hidden = false;
    this.say("");
    this.answered(null);
    this.door.querySelector("button").focus();
  }

  soon() {
    clearTimeout(this.timer);
    this.root.classList.add("waiting");
    this.timer = setTimeout(() => this.ask(), PATIENCE_MS);
  }

  async ask() {
    const turn = ++this.asked;
    const { photo } = this;
    this.root.classList.add("waiting");
    this.say(t("slot.asking"));
    try {
      const answer = await this.model.answer(photo);
      if (turn !== this.asked) return; // the person went on meanwhile
      this.answer = answer;
      this.chosen = answer.cam ? answer.ranking[0].index : null;
      this.show();
      this.say(spoken(answer));
      this.answered(answer);
    } catch (error) {
      if (turn !== this.asked) return;
      this.panel.replaceChildren();
      this.say(t("error.model", { reason: error.message }), true);
    }
    this.root.classList.remove("waiting");
  }

  show() {
    this.map.hidden = this.chosen === null;
    const { manifest } = this.model;
    if (this.chosen !== null) this.stage.setMap(classMap(this.answer.cam, this.chosen, manifest.map_px), manifest.map_px);
    showAnswer(this.panel, this.answer, manifest, this.chosen, (index) => {
      this.chosen = index;
      this.show();
      this.panel.querySelector('[aria-pressed="true"]').focus();
    });
  }

  say(text, alarm = false) {
    this.status.textContent = text;
    this.status.classList.toggle("alarm", alarm);
  }

  // Another language: everything that no data-t attribute covers.
  words() {
    this.stage.words();
    if (this.answer) this.show();
  }
}
