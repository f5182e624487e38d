// The list of images: sorted, filtered, and drawn only where it is seen.

const ROW_HEIGHT = 64;

class ImageList {
  /** `choose(place)` is called when the user picks an image. */
  constructor(index, choose) {
    this.index = index;
    this.choose = choose;
    this.list = document.getElementById("list");
    this.rows = document.getElementById("rows");
    this.order = [];
    this.selected = -1;
    this.drawn = "";
    this.list.addEventListener("scroll", () => this.draw());
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest("[data-place]");
      if (row) this.choose(Number(row.dataset.place));
    });
    new ResizeObserver(() => this.draw()).observe(this.list);
  }

  /** Sort by "name", "size", "risk" or "drift" of a side; images without the value come last. */
  arrange(key, descending, side, filter) {
    const { images } = this.index, wanted = filter.trim().toLowerCase();
    const value = (place) => images[place].predictions[side][key];
    const sign = descending ? -1 : 1, names = new Intl.Collator(undefined, { numeric: true });
    const byName = (a, b) => names.compare(images[a].name, images[b].name) || a - b;
    this.order = [...images.keys()].filter((place) => images[place].name.toLowerCase().includes(wanted));
    this.order.sort((a, b) => {
      if (key === "name") return sign * byName(a, b);
      const missing = (value(a) === null) - (value(b) === null);
      return missing || sign * (value(a) - value(b)) || byName(a, b);
    });
    Object.assign(this, { key, side });
    this.largest = Math.max(...this.order.map((place) => (key === "name" ? 0 : value(place) ?? 0)), 1e-12);
    this.rows.style.height = `${this.order.length * ROW_HEIGHT}px`;
    this.redraw();
  }

  /** Place of the image `steps` after the selected one; the selected one is where the list ends. */
  after(steps) {
    const at = this.order.indexOf(this.selected);
    return this.order[Math.min(Math.max(at + steps, 0), this.order.length - 1)];
  }

  select(place) {
    this.selected = place;
    const at = this.order.indexOf(place);
    if (at >= 0) {
      const top = at * ROW_HEIGHT, { scrollTop, clientHeight } = this.list;
      if (top < scrollTop) this.list.scrollTop = top;
      if (top + ROW_HEIGHT > scrollTop + clientHeight) this.list.scrollTop = top + ROW_HEIGHT - clientHeight;
    }
    this.redraw();
  }

  redraw() {
    this.drawn = "";
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW_HEIGHT) - 4);
    const last = Math.min(this.order.length, Math.ceil((this.list.scrollTop + this.list.clientHeight) / ROW_HEIGHT) + 4);
    if (this.drawn === `${first}-${last}`) return;
    this.drawn = `${first}-${last}`;
    const rows = [];
    for (let at = first; at < last; at++) rows.push(this.row(at));
    this.rows.replaceChildren(...rows);
    const selected = this.rows.querySelector("[aria-selected=true]");
    if (selected) this.list.setAttribute("aria-activedescendant", selected.id);
    else this.list.removeAttribute("aria-activedescendant");
  }

  row(at) {
    const place = this.order[at], image = this.index.images[place], values = image.predictions[this.side];
    const row = make("div", { className: "row", id: `row${place}`, title: image.name });
    row.dataset.place = place;
    row.style.top = `${at * ROW_HEIGHT}px`;
    const attributes = { role: "option", "aria-selected": place === this.selected, "aria-setsize": this.order.length, "aria-posinset": at + 1 };
    for (const [name, value] of Object.entries(attributes)) row.setAttribute(name, value);
    const thumbnail = make("img", { alt: "", src: `data:image/jpeg;base64,${image.thumbnail}`, decoding: "async" });
    const numbers = make("span", { className: "numbers" }, ...this.numbers(values));
    const text = make("span", { className: "text" }, make("span", { className: "name", textContent: image.name }), numbers);
    if (this.key !== "name" && values[this.key] !== null) {
      const bar = make("span", { className: "share" });
      bar.style.width = `${(100 * values[this.key]) / this.largest}%`;
      text.append(make("span", { className: "track" }, bar));
    }
    row.append(thumbnail, text);
    return row;
  }

  numbers(values) {
    const parts = [make("span", { textContent: `size ${decimal(values.size, 3)}` })];
    if (values.risk !== null) parts.push(make("span", { textContent: `risk ${decimal(values.risk, 3)}` }));
    if (values.drift !== null) {
      const isAtypical = values.drift <= this.index.atypical;
      const text = `${isAtypical ? "⚠ " : ""}drift p ${pValue(values.drift)}`;
      parts.push(make("span", { className: isAtypical ? "warn" : "", textContent: text }));
    }
    return parts;
  }
}

/** A number with so many decimals; a dash where there is none. */
function decimal(value, places) {
  return value === null || value === undefined ? "–" : value.toFixed(places);
}

function pValue(value) {
  return value < 0.001 ? "< 0.001" : value.toPrecision(2);
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}
