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
      $(id).addEventListener("change", (event) => this.start(Array.from(event.target.files).filter(isImage)));
    }
    $("#folder-stop").addEventListener("click", () => { this.running = false; });
    $("#folder-save").addEventListener("click", () => this.save());
    root.addEventListener("dragover", (event) => event.preventDefault());
    root.addEventListener("drop", async (event) => {
      event.preventDefault();
      this.start(await droppedFiles(event.dataTransfer));
    });
  }

  async start(files) {
    if (this.running) return;
    if (files.length === 0) { $("#folder-status").textContent = t("error.noimage"); return; }
    Object.assign(this, { rows: [], running: true });
    $("#folder-results").hidden = false;
    $("#folder-body").replaceChildren();
    $("#folder-stop").hidden = false;
    const progress = $("#folder-progress");
    progress.max = files.length;
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
    const { ranking: [first], set, quality } = answer;
    return el("tr", {},
      el("th", { scope: "row" }, name),
      el("td", {}, doubt(answer) ?? className(first.name)),
      el("td", { class: "number" }, percent(first.probability, 1)),
      el("td", {}, set ? set.map((one) => className(one.name)).join(", ") : "–"),
      el("td", {}, quality.map((fault) => t(`fault.${fault}`)).join(", ")));
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
