// The drawing as a file: SVG with its style inside, or PNG.

/** The drawing alone, in the colours that are seen. */
function svgText() {
  const copy = canvas.cloneNode(true);
  copy.removeAttribute("style");
  copy.querySelectorAll("[tabindex]").forEach((element) => element.removeAttribute("tabindex"));
  const rules = [...document.styleSheets[0].cssRules].filter((rule) => rule.selectorText?.includes("#canvas")).map((rule) => rule.cssText);
  const names = new Set(rules.join("").match(/--[\w-]+/gu));
  const root = getComputedStyle(document.documentElement);
  const values = [...names].filter((name) => root.getPropertyValue(name)).map((name) => `${name}: ${root.getPropertyValue(name)};`);
  const { x, y, width, height } = canvas.viewBox.baseVal;
  copy.prepend(
    makeSvg("style", {}, `#canvas { ${values.join(" ")} font: 13px ${family}; }\n${rules.join("\n")}`),
    makeSvg("rect", { x, y, width, height, fill: root.getPropertyValue("--ground") }),
  );
  return new XMLSerializer().serializeToString(copy);
}

function save(blob, ending) {
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: `dependencies.${ending}` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

const saveSvg = () => save(new Blob([svgText()], { type: "image/svg+xml" }), "svg");

/** The most pixels of a side and of a picture that browsers draw. */
const [MOST_SIDE, MOST_PIXELS] = [16_000, 64_000_000];

async function savePng() {
  const { width, height } = canvas.viewBox.baseVal;
  const factor = Math.min(2, MOST_SIDE / width, MOST_SIDE / height, Math.sqrt(MOST_PIXELS / (width * height)));
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgText())}`;
  await image.decode();
  const picture = make("canvas", { width: Math.floor(width * factor), height: Math.floor(height * factor) });
  picture.getContext("2d").drawImage(image, 0, 0, picture.width, picture.height);
  const blob = await new Promise((resolve) => picture.toBlob(resolve, "image/png"));
  save(blob, "png");
}
