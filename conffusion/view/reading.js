// What the intervals of one pixel are, as a table with a drawing of each interval.

const CHANNELS = { 1: ["value"], 3: ["red", "green", "blue"] };

/** Rows of the table, one for each channel: numbers in [0, 1], truth null where there is none. */
function readPixel(pixels, sideIndex, pixel) {
  const area = pixels.height * pixels.width, p = pixel.y * pixels.width + pixel.x, side = pixels.sides[sideIndex];
  const names = CHANNELS[side.lower.channels] || [...Array(side.lower.channels).keys()].map((c) => `channel ${c + 1}`);
  return names.map((channel, c) => {
    const lower = valueAt(side.lower, c, p, area), upper = valueAt(side.upper, c, p, area);
    const truth = pixels.target ? valueAt(pixels.target, c, p, area) : null;
    const verdict = !isJudged(pixels, p) ? "not judged" : truth === null ? "" : side.missed.values[c * area + p] ? "outside" : "inside";
    return { channel, lower, estimate: estimateAt(side, c, p, area), upper, size: upper - lower, truth, verdict };
  });
}

const SIGNS = { inside: "✓ ", outside: "✗ ", "not judged": "", "": "" };

/** The table of one method. */
function readingTable(label, rows) {
  const hasTruth = rows[0].truth !== null;
  const numbers = ["lower", "estimate", "upper", "size", ...(hasTruth ? ["truth"] : [])];
  const head = make("tr", {}, make("td", {}), ...numbers.map((name) => make("th", { scope: "col", textContent: name })));
  const body = rows.flatMap((row) => {
    const cells = numbers.map((name) => {
      const cell = make("td", { textContent: row[name].toFixed(4) });
      cell.dataset.value = `${row.channel}-${name}`;
      return cell;
    });
    const verdict = make("span", { className: `verdict ${row.verdict.replace(" ", "-")}`, textContent: SIGNS[row.verdict] + row.verdict });
    verdict.dataset.value = `${row.channel}-verdict`;
    const drawing = make("td", { colSpan: numbers.length, className: "drawing" }, intervalDrawing(row), verdict);
    return [
      make("tr", { className: `channel ${row.channel}` }, make("th", { scope: "row", rowSpan: 2, textContent: row.channel }), ...cells),
      make("tr", {}, drawing),
    ];
  });
  return make("table", { className: "reading" }, make("caption", { textContent: label }), make("thead", {}, head), make("tbody", {}, ...body));
}

/** The interval on the way from 0 to 1: a bar, a line at the estimate, a longer one at the truth. */
function intervalDrawing(row) {
  const drawing = make("span", { className: "interval" });
  drawing.setAttribute("aria-hidden", "true");
  const place = (element, value) => {
    element.style.left = `${100 * value}%`;
    drawing.append(element);
    return element;
  };
  place(make("span", { className: "reach" }), row.lower).style.width = `${100 * Math.max(row.size, 0)}%`;
  place(make("span", { className: "tick" }), row.estimate);
  if (row.truth !== null) place(make("span", { className: `dot ${row.verdict.replace(" ", "-")}` }), row.truth);
  return drawing;
}
