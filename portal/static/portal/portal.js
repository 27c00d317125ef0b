// What pages do beside htmx: copy a text, tell what a bar of a chart is, ask before what cannot be undone.
"use strict";

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const from = document.querySelector(button.dataset.copy);
  if (!from) return;
  await navigator.clipboard.writeText(from.value ?? from.textContent);
  const said = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = said; }, 1500);
});

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.ask ?? event.target.dataset.ask;
  if (question && !window.confirm(question)) event.preventDefault();
});

// A form that was sent is not sent again while its answer is on the way: a second key or member would be made.
const AGAIN_MS = 10_000;
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post") return;
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "yes";
  setTimeout(() => { delete form.dataset.sent; }, AGAIN_MS);
});
// Whoever comes back to a page may send its forms again.
window.addEventListener("pageshow", () => {
  document.querySelectorAll("form[data-sent]").forEach((form) => { delete form.dataset.sent; });
});

// A part of a page that could not be had. What looks again by itself does so; who asked for it is told. Where the
// answer is no, for a role that has changed say, the page itself says why.
const failed = (event) => {
  const status = event.detail.xhr?.status ?? 0;
  if (status >= 400 && status < 500) { window.location.reload(); return; }
  if (!event.detail.elt.matches("form") || document.getElementById("failed")) return;
  const note = document.createElement("p");
  note.id = "failed";
  note.className = "note error";
  note.setAttribute("role", "alert");
  note.textContent = "This could not be loaded, so what is shown is of before. Try again in a moment.";
  event.detail.elt.after(note);
};
document.addEventListener("htmx:responseError", failed);
document.addEventListener("htmx:sendError", failed);
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) document.getElementById("failed")?.remove();
});

// A form without a button of its own is sent when a choice in it changes.
document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-auto]");
  if (form) form.requestSubmit();
});

// A page with a secret, or with a form that was wrong, is the answer to a form: reloaded, or come back to, it must be
// the page of the thing and not send the form again.
const told = document.querySelector("[data-place]");
if (told) history.replaceState(null, "", told.dataset.place);

const tip = document.getElementById("tip");
document.addEventListener("pointermove", (event) => {
  const bar = event.target.closest?.("[data-label]");
  if (!tip) return;
  tip.hidden = !bar;
  if (!bar) return;
  tip.textContent = bar.dataset.label;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(event.clientX + 12, room))}px`;
  tip.style.top = `${event.clientY + 16}px`;
});

// The list of requests looks for new ones, unless it is paused or nobody sees it, and takes none that it has.
const LIVE_ROWS_MAX = 500;
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-pause]");
  if (!button) return;
  const paused = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", paused);
  button.textContent = paused ? "Paused" : "Pause";
});
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target.id !== "tail") return;
  const rows = event.target.closest("table").rows.length;
  if (rows > LIVE_ROWS_MAX) {
    const live = document.getElementById("live");
    if (live) live.textContent = `Stopped at ${LIVE_ROWS_MAX} rows: load the page again for newer requests.`;
  }
  const paused = document.querySelector("[data-pause][aria-pressed=true]") || rows > LIVE_ROWS_MAX;
  if (paused || document.hidden) event.preventDefault();
});
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.target.id !== "tail") return;
  const answer = document.createElement("template");
  answer.innerHTML = event.detail.serverResponse;
  // A server that starts anew is asked again.
  if (event.detail.xhr.status >= 500) return;
  // Whoever was signed out meanwhile is sent another page.
  if (!answer.content.querySelector("#tail")) {
    event.detail.shouldSwap = false;
    window.location.reload();
    return;
  }
  answer.content.querySelectorAll("tr[id]").forEach((row) => { if (document.getElementById(row.id)) row.remove(); });
  event.detail.serverResponse = answer.innerHTML;
});

// What a bar says is told by the tip; without this file it would be by its title.
document.addEventListener("htmx:load", (event) => {
  event.detail.elt.querySelectorAll("[data-label] > title").forEach((title) => title.remove());
});

// The list of organizations closes like any other: by Escape, or by a click beside it.
const shut = (event) => {
  const open = document.querySelector("details.switch[open]");
  if (!open || (event.type === "keydown" ? event.key !== "Escape" : open.contains(event.target))) return;
  open.open = false;
  if (event.type === "keydown") open.querySelector("summary").focus();
};
document.addEventListener("keydown", shut);
document.addEventListener("click", shut);

// On a phone the menu is one line: the page that is open is brought into sight.
document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
