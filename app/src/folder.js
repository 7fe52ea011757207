// A whole folder, one image after the other, and its results as CSV.
import { doubt } from "./answer.js";
import { toCsv } from "./csv.js";
import { $, el } from "./dom.js";
import { className, percent, t } from "./messages.js";
import { droppedFiles, isImage } from "./photo.js";

const SHOWN = 500; // rows on the page; the CSV has all

export class Folder {
  constructor(root, model) {
    Object.assign(this, { root, model, rows: [], running: false });
    $("#folder-choose").addEventListener("click", () => $("#folder-input").click());
    $("#files-choose").addEventListener("click", () => $("#files-input").click());
    for (const id of ["#folder-input", "#files-input"]) {
      $(id).addEventListener("change", ({ target }) => {
        this.start(Array.from(target.files).filter(isImage));
        target.value = ""; // the same folder may be chosen again
      });
    }
    $("#folder-stop").addEventListener("click", () => { this.running = false; });
    $("#folder-save").addEventListener("click", () => this.save());
    root.addEventListener("dragover", (event) => { event.preventDefault(); root.classList.add("over"); });
    root.addEventListener("dragleave", () => root.classList.remove("over"));
    root.addEventListener("drop", async (event) => {
      event.preventDefault();
      root.classList.remove("over");
      this.start(await droppedFiles(event.dataTransfer));
    });
  }

  async start(files) {
    if (this.running) return;
    this.alarm(files.length ? null : "error.noimage");
    if (files.length === 0) return;
    this.running = true;
    try {
      await this.model.ready;
    } catch {
      this.running = false;
      this.alarm("state.failed");
      return;
    }
    await this.scoreAll(files);
  }

  alarm(key) {
    const place = $(".status", this.root);
    place.textContent = key ? t(key) : "";
    place.classList.toggle("alarm", Boolean(key));
  }

  async scoreAll(files) {
    this.rows = [];
    delete this.root.dataset.done;
    $("#folder-results").hidden = false;
    $("#folder-body").replaceChildren();
    $("#folder-stop").hidden = false;
    $("#folder-save").disabled = true;
    const progress = $("#folder-progress");
    Object.assign(progress, { max: files.length, value: 0 });
    this.status(files.length);
    for (const file of files) {
      if (!this.running) break;
      await this.score(file);
      progress.value = this.rows.length;
      this.status(files.length);
    }
    this.running = false;
    $("#folder-stop").hidden = true;
    $("#folder-save").disabled = false;
    this.root.dataset.done = this.rows.length;
  }

  async score(file) {
    const row = { name: file.webkitRelativePath || file.name };
    try {
      row.answer = await this.model.answer({ blob: file, turn: 0, box: null });
      row.answer.cam = null; // thousands of maps would fill the memory
    } catch {
      row.error = "unreadable";
    }
    this.rows.push(row);
    if (this.rows.length <= SHOWN) $("#folder-body").append(this.line(row));
  }

  line({ name, answer, error }) {
    if (error) return el("tr", { class: "failed" }, el("th", { scope: "row" }, name), el("td", { colspan: 4 }, t("error.decode")));
    const { ranking: [first], unlike, quality } = answer;
    const set = unlike ? null : answer.set; // its promise is for images like the training images
    return el("tr", {},
      el("th", { scope: "row" }, name),
      el("td", {}, doubt(answer) ?? className(first.name)),
      el("td", {}, percent(first.probability, 1)),
      el("td", { class: "wide" }, set ? set.map((one) => className(one.name)).join(", ") : "–"),
      el("td", { class: "wide" }, quality.map((fault) => t(`fault.${fault}`)).join(" ")));
  }

  status(total) {
    const failed = this.rows.filter((row) => row.error).length;
    $("#folder-status").textContent = t("folder.status", { done: this.rows.length, total, failed });
  }

  save() {
    const url = URL.createObjectURL(new Blob([toCsv(this.rows, this.model.manifest.classes)], { type: "text/csv" }));
    el("a", { href: url, download: "dermdistill.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  words() {
    $("#folder-body").replaceChildren(...this.rows.slice(0, SHOWN).map((row) => this.line(row)));
    if (this.rows.length) this.status($("#folder-progress").max);
  }
}
