/* The picture of a network, and its blocks as a table. */
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const FIELDS = DATA.networks.fields;
const PICTURE = { height: 212, top: 34, floor: 190, width: 460, stageGap: 7, tallest: 146 };

function drawn(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function halved(size, stride) {
  return Math.ceil(size / stride);
}

/** The layers of a trial's network from the stem to the head, or null where there is no picture of it. */
function layersOf(row) {
  const network = DATA.networks.of[row];
  if (network === null) return null;
  const [resolution, stemWidth, stemStride, activation, headKind, headWidth, stages] = network;
  let size = halved(resolution, stemStride);
  let width = stemWidth;
  const plainLayer = { hidden: 0, squeeze: 0, skip: false, linear: false, gate: null, activation };
  const layers = [{ ...plainLayer, part: "stem", op: "conv", kernel: 3, stride: stemStride, width, input: 3, from: resolution, size }];
  stages.forEach((blocks, stage) => {
    for (const place of blocks) {
      const block = Object.fromEntries(FIELDS.map((field, i) => [field, DATA.networks.blocks[place][i]]));
      const next = halved(size, block.stride);
      layers.push({ ...block, part: `stage ${stage + 1}`, input: width, from: size, size: next });
      [width, size] = [block.width, next];
    }
  });
  if (headWidth) {
    const pooled = headKind === "mobilenetv3" ? 1 : size;
    layers.push({ ...plainLayer, part: "head", op: "conv", kernel: 1, stride: 1, width: headWidth, input: width, from: size, size: pooled });
  }
  return layers;
}

const expansion = (layer) => (layer.hidden ? layer.hidden / layer.input : null);

function described(layer) {
  const parts = [
    `${layer.part}: ${layer.op}, kernel ${layer.kernel}`,
    `${layer.input} to ${layer.width} channels${layer.hidden ? `, ${layer.hidden} inside (×${number(expansion(layer))})` : ""}`,
    layer.from === layer.size ? `map ${layer.size} × ${layer.size}` : `map ${layer.from} to ${layer.size} px a side`,
    layer.squeeze ? `squeeze-and-excite to ${layer.squeeze} channels, gate ${layer.gate}` : "no squeeze-and-excite",
    `${layer.activation}${layer.skip ? ", skip" : ""}`,
  ];
  return parts.join("\n");
}

/** Left edge and width of every layer's box: the larger the map, the wider. */
function placed(layers) {
  const gaps = layers.map((layer, i) => (i && layer.part !== layers[i - 1].part ? PICTURE.stageGap : 1.5));
  const shares = layers.map((layer) => 2 + Math.log2(layer.size));
  const room = PICTURE.width - gaps.reduce((sum, gap) => sum + gap, 0);
  const scale = Math.min(7, room / shares.reduce((sum, share) => sum + share, 0));
  let x = 0;
  return layers.map((_, i) => {
    x += gaps[i];
    const box = { x, width: shares[i] * scale };
    x += box.width;
    return box;
  });
}

function boxOf(layer, box, widest) {
  const height = Math.max(5, PICTURE.tallest * Math.sqrt(layer.width / widest));
  const y = PICTURE.floor - height;
  const middle = box.x + box.width / 2;
  const group = drawn("g", {});
  group.append(drawn("title", {}, described(layer)));
  group.append(drawn("rect", { class: "box", x: box.x, y, width: box.width, height, rx: 2, fill: `var(--kernel${layer.kernel})` }));
  if (layer.hidden && box.width >= 19 && height >= 16) {
    group.append(drawn("text", { class: "ratio", x: middle, y: PICTURE.floor - 4 }, String(Number(expansion(layer).toPrecision(2)))));
  }
  if (layer.squeeze) group.append(drawn("rect", { class: "squeeze", x: box.x + 2, y: y + 2, width: box.width - 4, height: 2.5 }));
  if (layer.skip) {
    const [left, right] = [box.x + 2, box.x + box.width - 2];
    group.append(drawn("path", { class: "skip", d: `M${left} ${y - 2} C${left} ${y - 11}, ${right} ${y - 11}, ${right} ${y - 2}` }));
  }
  return group;
}

/** Where the map halves: a line before the layer, and the new side below it. */
function marksOf(layers, boxes) {
  const marks = [drawn("text", { x: 0, y: 12 }, `map side in px: ${layers[0].from} in, then below`)];
  layers.forEach((layer, i) => {
    const box = boxes[i];
    if (i && layer.size !== layer.from && layer.part !== "head") {
      const x = box.x - PICTURE.stageGap / 2;
      marks.push(drawn("line", { class: "halves", x1: x, x2: x, y1: PICTURE.top - 14, y2: PICTURE.floor + 4 }));
    }
    if (!i || layer.size !== layer.from) marks.push(drawn("text", { x: box.x, y: PICTURE.floor + 15 }, String(layer.size)));
  });
  return marks;
}

function picture(layers) {
  const widest = Math.max(...layers.map((layer) => layer.width));
  const boxes = placed(layers);
  const last = boxes[boxes.length - 1];
  const label = `${layers.length} layers from ${layers[0].from} px, up to ${widest} channels; the table below has every number`;
  const svg = drawn("svg", { viewBox: `0 0 ${Math.max(PICTURE.width, last.x + last.width)} ${PICTURE.height}`, role: "img", "aria-label": label });
  svg.append(...marksOf(layers, boxes), ...layers.map((layer, i) => boxOf(layer, boxes[i], widest)));
  return svg;
}

function key(layers) {
  const kernels = [...new Set(layers.map((layer) => layer.kernel))].sort();
  const swatches = kernels.map((kernel) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = `var(--kernel${kernel})`;
    return element("li", {}, swatch, `${kernel} × ${kernel}`);
  });
  const rest = ["height: √ channels out", "width: log of the map's side", "number: expansion", "▬ squeeze-and-excite", "⌒ skip", "┊ map halves"];
  return element("ul", { class: "key" }, ...swatches, ...rest.map((text) => element("li", {}, text)));
}

function layerTable(layers) {
  const labels = [["part"], ["op"], ["kernel", true], ["channels", true], ["expansion", true], ["squeeze", true], ["skip"], ["map", true]];
  const rows = layers.map((layer) => [
    layer.part, layer.op, String(layer.kernel), String(layer.width), number(expansion(layer)),
    layer.squeeze ? String(layer.squeeze) : "", layer.skip ? "yes" : "", String(layer.size),
  ]);
  const scroll = element("div", { class: "scroll", tabindex: "0" }, table(labels, rows));
  return element("details", {}, element("summary", {}, "Every layer as a table"), scroll);
}
