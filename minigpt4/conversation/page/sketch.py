"""A layer over the last picture on which a box is drawn, with a mouse, a pen or a finger.

Gradio's image editor loads slowly and is too large for a phone. The box goes into a hidden field, as four
parts of the picture's width and height.
"""

SHEET = '<div class="sheet"><img alt="" draggable="false"><div class="frame"></div></div>'

# The layer is only shown for the task that takes a box.
CHOOSE = "(task) => { document.querySelector('#page').dataset.task = task; return task; }"

CSS = """
#sketch { display: none; flex: none !important; gap: 4px; }
#page[data-task=identify] #sketch:not(.empty):has(img[src]) { display: flex; }
#sketch p { font-size: .85rem; color: var(--body-text-color-subdued); }
#sketch .sheet { position: relative; width: fit-content; margin: 0 auto; cursor: crosshair;
  touch-action: none; user-select: none; }
#sketch img { display: block; max-width: 100%; max-height: 24dvh; pointer-events: none; border-radius: 4px; }
#sketch .frame { position: absolute; display: none; border: 2px solid rgb(220, 38, 38);
  box-shadow: 0 0 0 1px white, inset 0 0 0 1px white; }
"""

HEAD = """<script>
const noteSketch = (sides) => {
  const frame = document.querySelector("#sketch .frame");
  const field = document.querySelector("#sketched :is(textarea, input)");
  if (!frame || !field) return;
  const [left, top, right, bottom] = sides ?? [0, 0, 0, 0];
  const percent = (part) => `${100 * part}%`;
  Object.assign(frame.style, {display: sides ? "block" : "none", left: percent(left), top: percent(top),
    width: percent(right - left), height: percent(bottom - top)});
  field.value = sides ? sides.map((side) => side.toFixed(4)).join() : "";
  field.dispatchEvent(new Event("input", {bubbles: true}));
};
// The next question is about the last picture: of those in the box, else of the dialogue. While a question is
// on its way from the one to the other there is none; its sketch is kept.
const showSketch = () => {
  const sheet = document.querySelector("#sketch img");
  if (!sheet) return;
  const pictures = "#dialogue [data-testid=user] img:not(.film *), #box .thumbnail-item img";
  const last = [...document.querySelectorAll(pictures)].pop();
  document.querySelector("#sketch").classList.toggle("empty", !last);
  if (!last || sheet.src === last.src) return;
  sheet.src = last.src;
  noteSketch(null);
};
new MutationObserver(showSketch)
  .observe(document, {subtree: true, childList: true, attributeFilter: ["src"]});
document.addEventListener("pointerdown", (event) => {
  const sheet = event.target.closest?.("#sketch .sheet");
  if (!sheet) return;
  event.preventDefault();
  sheet.setPointerCapture(event.pointerId);
  const area = sheet.getBoundingClientRect();
  const at = ({clientX, clientY}) => [(clientX - area.left) / area.width, (clientY - area.top) / area.height]
    .map((part) => Math.min(Math.max(part, 0), 1));
  const [x, y] = at(event);
  noteSketch(null);
  sheet.onpointermove = (event) => {
    const [left, right] = [x, at(event)[0]].sort((a, b) => a - b);
    const [top, bottom] = [y, at(event)[1]].sort((a, b) => a - b);
    noteSketch(right - left > 0.01 && bottom - top > 0.01 ? [left, top, right, bottom] : null);
  };
  sheet.onpointerup = sheet.onpointercancel = () => { sheet.onpointermove = null; };
});
</script>"""
