// An answer in words and bars.
import { el, icon } from "./dom.js";
import { className, percent, t } from "./messages.js";

// Why the most probable class is no answer, or null. Another thing than skin comes before doubt.
export function doubt({ unsure, unlike }) {
  if (unlike) return t("answer.unlike");
  return unsure ? t("answer.unsure") : null;
}

const warning = (fault) =>
  el("li", {}, icon("warning"), el("span", {}, el("strong", {}, t(`fault.${fault}`)), " ", t(`fault.${fault}.help`)));

function headline({ ranking, unsure, unlike }) {
  if (unlike) return [el("div", { class: "doubt" }, el("h2", {}, icon("warning"), t("answer.unlike")), el("p", {}, t("answer.unlike.help")))];
  if (unsure) return [el("h2", {}, t("answer.unsure")), el("p", { class: "lead" }, t("answer.unsure.help"))];
  const [first] = ranking;
  return [
    el("p", { class: "eyebrow" }, t("answer.first")),
    el("h2", {}, `${className(first.name)} `, el("span", { class: "figure" }, percent(first.probability))),
  ];
}

function conformal({ set, unlike }, manifest) {
  if (unlike) return null; // the promise is for images like those that it was fitted on
  if (!set) return el("p", { class: "set none" }, t("answer.noset"));
  return el("div", { class: "set" },
    el("p", {}, t("answer.set", { coverage: percent(manifest.conformal.coverage) })),
    el("ul", { class: "chips" }, ...set.map((one) => el("li", {}, className(one.name)))));
}

// `choose(index)` shows a class's map; `chosen` is the one shown, null where there are none.
function bars({ ranking }, chosen, choose) {
  return el("ol", { class: "bars" }, ...ranking.map(({ name, index, probability }) => {
    const row = [
      el("span", { class: "name" }, className(name)),
      el("span", { class: "value" }, percent(probability, 1)),
      el("span", { class: "bar", "aria-hidden": "true" }, el("span", { style: `inline-size:${100 * probability}%` })),
    ];
    const properties = { "data-class": name, "data-probability": probability.toFixed(6) };
    if (chosen === null) return el("li", properties, el("div", { class: "row" }, ...row));
    return el("li", properties, el("button", {
      type: "button", class: "row", "aria-pressed": String(index === chosen), onclick: () => choose(index),
    }, ...row));
  }));
}

export function showAnswer(root, answer, manifest, chosen = null, choose = null) {
  const faults = answer.quality.length ? el("ul", { class: "warnings" }, ...answer.quality.map(warning)) : null;
  root.replaceChildren(...[
    ...headline(answer),
    faults,
    conformal(answer, manifest),
    bars(answer, chosen, choose),
    chosen === null ? null : el("p", { class: "hint" }, t("answer.map")),
    el("p", { class: "hint time" }, icon("device"), t("answer.time", { ms: Math.round(answer.ms) })),
  ].filter(Boolean));
}

// What a screen reader says when an answer arrives.
export function spoken(answer) {
  const { ranking: [first], quality } = answer;
  const named = `${t("answer.first")}: ${className(first.name)} ${percent(first.probability)}`;
  return [doubt(answer) ?? named, ...quality.map((fault) => t(`fault.${fault}`))].join(". ");
}
