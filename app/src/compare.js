// Two images of one lesion, and what changed between the answers.
import { el } from "./dom.js";
import { className, language, percent, t } from "./messages.js";
import { Slot } from "./slot.js";

export class Compare {
  constructor(root, model) {
    this.model = model;
    this.table = el("div", { class: "card change", hidden: true });
    const [before, after] = [el("section", { class: "slot" }), el("section", { class: "slot" })];
    root.append(el("div", { class: "pair" }, before, after), this.table);
    this.slots = [new Slot(before, model, "compare.before", () => this.show()), new Slot(after, model, "compare.after", () => this.show())];
  }

  show() {
    const [before, after] = this.slots.map((slot) => slot.answer);
    this.table.hidden = !before || !after;
    if (this.table.hidden) return;
    const points = new Intl.NumberFormat(language(), { maximumFractionDigits: 1, minimumFractionDigits: 1, signDisplay: "exceptZero" });
    const rows = after.ranking.map(({ name, index, probability }) => {
      const first = before.probabilities[index];
      return el("tr", {}, el("th", { scope: "row" }, className(name)), el("td", {}, percent(first, 1)), el("td", {}, percent(probability, 1)), el("td", {}, points.format(100 * (probability - first))));
    });
    const heads = ["compare.class", "compare.before", "compare.after", "compare.change"];
    this.table.replaceChildren(
      el("h2", {}, t("compare.title")), el("p", {}, t("compare.help")),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("compare.title") }, el("table", {},
        el("thead", {}, el("tr", {}, ...heads.map((key) => el("th", { scope: "col" }, t(key))))), el("tbody", {}, ...rows))));
  }

  words() {
    for (const slot of this.slots) slot.words();
    this.show();
  }
}
