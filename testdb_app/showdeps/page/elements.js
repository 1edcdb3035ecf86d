// Making elements. Text is always set as text: nothing of a database is ever read as markup.

/** Make an element; children are elements or text. `class`, `data-…` and such are attributes, functions listen to events. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      element.addEventListener(name, value);
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function makeCurve(className) {
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("class", `curve ${className}`);
  return path;
}

/** A short line for the legend, drawn as in the graph. */
function makeSample(className, more = "") {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("width", "36");
  svg.setAttribute("height", "12");
  svg.setAttribute("aria-hidden", "true");
  const path = makeCurve(className);
  path.setAttribute("d", `M2 6H34M28 2.5L34 6L28 9.5${more}`);
  svg.append(path);
  return svg;
}
