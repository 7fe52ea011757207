// The model's card as its bundle has it, and which of its files answers here.
import DOMPurify from "dompurify";
import { marked } from "marked";
import { $, el } from "./dom.js";
import { percent, t } from "./messages.js";

const MARKUP = { ALLOWED_TAGS: ["h2", "h3", "h4", "p", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "strong", "em", "code", "blockquote"], ALLOWED_ATTR: [] };

export class Card {
  constructor(root, model) {
    Object.assign(this, { root, model });
  }

  // Its view is shown: the text is read the first time, and again where that failed.
  open() {
    this.text ??= this.read().catch(() => { this.text = null; });
  }

  async read() {
    const text = await (await fetch(new URL("card.md", this.model.bundle))).text();
    const lower = marked.parse(text).replace(/<(\/?)h([123])\b/g, (_, end, level) => `<${end}h${Number(level) + 1}`);
    const words = DOMPurify.sanitize(lower, { ...MARKUP, RETURN_DOM_FRAGMENT: true });
    for (const table of words.querySelectorAll("table")) {
      const label = table.closest("table").querySelector("th")?.textContent ?? "";
      const frame = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label });
      table.replaceWith(frame);
      frame.append(table);
    }
    $("#card-text").replaceChildren(words);
    $("#card-text").lang = "en"; // whatever the page speaks
  }

  facts({ name, models, calibration, conformal, abstention, ood }) {
    const model = models[this.model.name];
    const rows = [
      ["card.name", name],
      ["card.runs", model ? `${this.model.name} (${model.engine}, ${model.precision})` : "…"],
      ["card.parity", model?.parity ? t("card.parity.value", { difference: model.parity.probability.toPrecision(2), images: model.parity.images, agreement: percent(model.parity.top1_agreement, 1) }) : t("card.unknown")],
      ["card.calibration", calibration ? t("card.calibration.value", { temperature: calibration.temperature.toFixed(2), images: calibration.images }) : t("card.none")],
      ["card.conformal", conformal ? t("card.conformal.value", { coverage: percent(conformal.coverage) }) : t("card.none")],
      ["card.abstention", abstention ? t("card.abstention.value", { least: percent(abstention.least_probability), answered: percent(abstention.answered_ratio) }) : t("card.none")],
      ["card.ood", ood ? t("card.ood.value", { passed: percent(ood.kept_ratio) }) : t("card.none")],
    ];
    $("#card-facts").replaceChildren(...rows.flatMap(([key, value]) => [el("dt", {}, t(key)), el("dd", {}, value)]));
  }

  words() {
    if (this.model.manifest) this.facts(this.model.manifest);
  }
}
