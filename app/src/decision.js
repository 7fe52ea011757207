// What follows from probabilities by the bundle's own rules (docs/bundle.md, manifest.json).

export function decide({ probabilities, oodScore }, { classes, conformal, abstention, ood }) {
  const ranking = classes
    .map((name, index) => ({ name, index, probability: probabilities[index] }))
    .sort((a, b) => b.probability - a.probability || a.index - b.index);
  let set = null;
  if (conformal) {
    set = ranking.filter((one) => one.probability >= 1 - conformal.quantile);
    if (set.length === 0) set = ranking.slice(0, 1);
  }
  const unsure = Boolean(abstention) && ranking[0].probability < abstention.least_probability;
  const unlike = Boolean(ood) && oodScore > ood.threshold;
  return { ranking, set, unsure, unlike };
}
