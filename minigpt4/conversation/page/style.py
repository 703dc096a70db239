"""How the page looks, and the little it does in the browser."""

from gradio import themes

from minigpt4.conversation.page.messages import COLOURS

# Fonts that are there: a theme's own would be fetched from elsewhere.
_SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> themes.Base:
    """Quiet colours, in light and in dark."""
    return themes.Default(
        primary_hue="indigo", secondary_hue="indigo", neutral_hue="slate", font=_SANS, font_mono=_MONO
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
    )


CSS = """
.gradio-container { max-width: 900px !important; width: 100%; margin: 0 auto !important; }
.gradio-container .main.fillable { padding: 0 !important; }
.gradio-container main.contain { padding: 10px 16px !important; gap: 0; }
#page { height: calc(100dvh - 20px); width: 100%; flex-wrap: nowrap; gap: 8px; }
#head { align-items: center; flex-wrap: nowrap; gap: 8px; flex: none; }
#head button { flex: none; min-width: 0; width: auto; }
#status { flex: 1; min-width: 0; }
#status p { margin: 0; font-size: .78rem; color: var(--body-text-color-subdued);
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
#dialogue { flex: 1 1 0 !important; min-height: 160px !important; height: auto !important; }
#dialogue > .wrapper > .icon-button-wrapper, #dialogue :is([title=Share], [title=分享]) { display: none; }
#dialogue [data-testid=user] { white-space: pre-wrap; }
#dialogue [data-testid=bot], #dialogue [data-testid=bot] .md { white-space: normal; }
#dialogue [data-testid=bot] .md > :first-child { margin-top: 0; }
#dialogue [data-testid=bot] .md > :last-child { margin-bottom: 0; }
#dialogue [data-testid=bot] pre { overflow-x: auto; }
#dialogue [data-testid=user] img { max-height: 160px; width: auto; }
#dialogue .user.message:has(> .component) { display: flex; flex-flow: row wrap; gap: 8px; }
#dialogue .user.message > .component { margin: 0; padding: 0; width: auto; flex: 0 1 auto; }
#dialogue .user.message > .message:not(.component) { flex-basis: 100%; }
#dialogue .image-container, #dialogue .image-container > button { margin: 0; padding: 0; height: auto; }
#dialogue .component > div, #dialogue .component > div > div { padding: 0; margin: 0; }
#dialogue .image-container img { margin: 0; }
#dialogue .film { display: block; margin: 0 0 6px; white-space: normal; }
#dialogue .film .name { display: block; font-size: .8rem; color: var(--body-text-color-subdued);
  overflow-wrap: anywhere; }
#dialogue .film .frames { display: flex; flex-wrap: wrap; gap: 4px; max-height: 270px; overflow-y: auto; }
#dialogue .film .frame { flex: none; font-size: .7rem; text-align: center; line-height: 1.5;
  font-variant-numeric: tabular-nums; }
#dialogue .film img { display: block; height: 64px; width: auto; margin: 0; border-radius: 4px; }
#dialogue .note { font-size: .8rem; color: var(--body-text-color-subdued); margin: .4em 0 0; }
#dialogue .boxed { background: rgba(var(--box), .16); border-bottom: 2px solid rgb(var(--box));
  border-radius: 3px; padding: 0 .2em; }
#dialogue [data-testid=bot] img { max-height: 320px; width: auto; }
#tasks { flex: none; min-width: 0; }
#tasks .wrap { display: flex; flex-wrap: wrap; gap: 6px; padding: 2px; }
#tasks label { flex: none; padding: 4px 12px; font-size: .85rem; border-radius: 999px; }
#tasks label > span { margin: 0; }
#tasks input { position: absolute; opacity: 0; }
#tasks label:has(:checked) { border-color: var(--color-accent); background: var(--color-accent-soft); }
#tasks label:has(:focus-visible) { outline: 2px solid var(--color-accent); }
#dialogue .typing { display: inline-block; width: 1.8em; height: .6em; vertical-align: middle;
  background: radial-gradient(circle closest-side, currentColor 80%, #0000) 0 / 33.4% 100%;
  animation: typing 1.2s ease-in-out infinite alternate; }
#dialogue .typing + .note { margin: 0 0 0 .6em; }
@keyframes typing { from { opacity: .25; } to { opacity: .9; } }
@media (prefers-reduced-motion: reduce) { #dialogue .typing { animation: none; } }
#dialogue .placeholder-content { padding-top: 24px; text-align: center; }
#dialogue .placeholder-content .md { display: block; width: 100%; }
#dialogue .example-image-container { width: 96px; height: 96px; max-width: 46%; flex: none; }
#dialogue .example-image-container img { width: 100%; height: 100%; object-fit: cover; border-radius: 6px; }
#extras { flex: none; gap: 8px; align-items: start; flex-wrap: wrap; }
#extras > * { min-width: 0; flex: 1; padding: 6px 12px; }
#extras > :has(> [data-testid=accordion-content]:not([style*=none])) { flex: 1 0 100%; }
#extras .label-wrap { font-size: .85rem; color: var(--body-text-color-subdued); }
#settings .form { display: grid; grid-template-columns: 1fr 1fr; max-height: 45dvh; overflow-y: auto; }
.toast-wrap { top: auto !important; bottom: var(--above-box, 128px) !important; }
@media (max-width: 600px) {
  #page { gap: 6px; }
  #dialogue .examples { grid-template-columns: 1fr 1fr; }
  #dialogue .example { padding: 8px; }
  #dialogue .example-image-container { width: 64px; height: 64px; }
  #settings .form { grid-template-columns: 1fr; }
}
"""
# A tint that is readable in light and dark; the colour itself is the line's.
CSS += "".join(
    f"#dialogue .box-{place} {{ --box: {', '.join(map(str, colour))}; }}\n"
    for place, colour in enumerate(COLOURS)
)

# Copying a message copies what was written, not the HTML that shows it; and so does editing.
HEAD = """<style>:root:has(body.dark) { color-scheme: dark; }</style>
<script>
const written = (text) => {
  const source = /^<!--(.*?)-->/.exec(text);
  if (source) return decodeURIComponent(source[1]);
  return text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
};
if (navigator.clipboard) {
  const write = navigator.clipboard.writeText.bind(navigator.clipboard);
  navigator.clipboard.writeText = (text) => write(written(text));
}
// Nor is it what a screen reader should read: it reads the text itself.
new MutationObserver(() => {
  document.querySelectorAll("#dialogue :is([data-testid=user], [data-testid=bot])[aria-label]")
    .forEach((message) => message.removeAttribute("aria-label"));
  document.querySelectorAll("#dialogue img[src*='file='][alt='']")
    .forEach((picture) => picture.alt = decodeURIComponent(picture.src.split("/").pop()));
  const box = document.querySelector("#box");  // messages appear above it
  if (box) document.documentElement.style.setProperty(
    "--above-box", `${innerHeight - box.getBoundingClientRect().top + 8}px`);
}).observe(document, {subtree: true, childList: true, attributeFilter: ["aria-label"]});
document.addEventListener("focusin", ({target}) => {
  if (!target.matches("#dialogue .edit-textarea") || target.dataset.written) return;
  target.dataset.written = true;
  target.value = written(target.value);
  target.dispatchEvent(new Event("input", {bubbles: true}));
});
</script>"""
