// The page's side of the worker, and what the bundle says.
import { decide } from "./decision.js";

const meta = (name) => document.querySelector(`meta[name="dermdistill-${name}"]`).content;

export class Model {
  // `begin`: a promise to wait for before anything is asked of the network. `described` stands for
  // the manifest, `ready` for the model itself.
  constructor(begin) {
    this.bundle = new URL(meta("bundle"), document.baseURI).href;
    this.waiting = new Map();
    this.last = 0;
    this.described = this.#describe(begin);
    this.ready = this.#open();
    this.ready.catch(() => {}); // whoever waits for it is told
  }

  async #describe(begin) {
    await begin;
    this.#work();
    // The worker asks for it too, once its script has come, and is served by the same download.
    fetch(new URL(meta("early"), document.baseURI)).then((response) => response.arrayBuffer()).catch(() => {});
    this.manifest = await (await fetch(new URL("manifest.json", this.bundle))).json();
  }

  async #open() {
    await this.described;
    const { bundle, manifest } = this;
    const { name, used } = await this.#call("open", { bundle, manifest, models: meta("models").split(" ") });
    Object.assign(this, { name, files: used });
  }

  #work() {
    this.worker = new Worker(new URL("worker.js", import.meta.url));
    this.worker.onmessage = ({ data: { id, value, error } }) => {
      const { resolve, reject } = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) resolve(value);
      else reject(new Error(error));
    };
    this.worker.onerror = (event) => {
      for (const { reject } of this.waiting.values()) reject(new Error(event.message));
      this.waiting.clear();
    };
  }

  // One image -> {probabilities, cam, oodScore, quality, ms, ranking, set, unsure, unlike}.
  async answer(photo) {
    await this.described; // so the worker was told to open the model
    const found = await this.#call("answer", { blob: photo.blob, turn: photo.turn, box: photo.box });
    return { ...found, ...decide(found, this.manifest) };
  }

  // The part of a turned image that the model sees without a person's own section.
  seen(width, height) {
    const { crop } = this.manifest.preprocessing;
    if (crop === "squash") return { left: 0, top: 0, width, height };
    const side = crop === "pad" ? Math.max(width, height) : Math.min(width, height);
    return { left: Math.floor((width - side) / 2), top: Math.floor((height - side) / 2), width: side, height: side };
  }

  #call(kind, value) {
    const id = ++this.last;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, kind, value });
    });
  }
}
