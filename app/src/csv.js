// Results of a folder as CSV (RFC 4180), safe to open in a spreadsheet.

function cell(value) {
  let text = String(value);
  if (/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text))) text = `'${text}`; // else a formula
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// rows: {name, answer} or {name, error}.
export function toCsv(rows, classes) {
  const head = ["image", ...classes, "top", "set", "not_sure", "unlike", "warnings", "error"];
  const lines = rows.map(({ name, answer, error }) => {
    if (error) return [name, ...classes.map(() => ""), "", "", "", "", "", error];
    const { probabilities, ranking, set, unsure, unlike, quality } = answer;
    return [
      name, ...Array.from(probabilities, (p) => p.toFixed(6)), ranking[0].name,
      set ? set.map((one) => one.name).join(" ") : "", unsure, unlike, quality.join(" "), "",
    ];
  });
  return [head, ...lines].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}
