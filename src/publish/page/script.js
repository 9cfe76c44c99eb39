// Updates the page: fetches it again and replaces only what has changed, so that focus, scrolling and selection stay.
// Shows the values of the timeline at the pointer, and times in the viewer's zone. Without scripts the page has the same
// content and reloads itself.
"use strict";

const INTERVAL_MS = 2000;
const TIMEOUT_MS = 10000;
const contact = document.getElementById("contact");
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const isUtc = new Date().getTimezoneOffset() === 0;
let timer;
let answeredAt = new Date();

function takeOver(old, next) {
  if (old.isEqualNode(next)) return;
  if (old.nodeType !== Node.ELEMENT_NODE || old.nodeName !== next.nodeName) {
    old.replaceWith(next);
    return;
  }
  for (const { name } of [...old.attributes]) {
    // What the reader has unfolded stays so.
    const isUnfolded = old.nodeName === "DETAILS" && name === "open";
    if (!next.hasAttribute(name) && !isUnfolded) old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const [before, after] = [[...old.childNodes], [...next.childNodes]];
  after.forEach((child, place) => {
    if (place < before.length) takeOver(before[place], child);
    else old.append(child);
  });
  before.slice(after.length).forEach((child) => child.remove());
}

function say(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

function isLocal() {
  try {
    return !isUtc && localStorage.getItem("evenkeel-times") === "local";
  } catch {
    return false; // Storage may be forbidden.
  }
}

function remember(choice) {
  try {
    localStorage.setItem("evenkeel-times", choice);
  } catch {
    // Then the next page begins with UTC again.
  }
}

const clockOf = (moment, parts) => moment.toLocaleTimeString("en-GB", parts);

// The server knows UTC only. The viewer's zone stands beside it in the titles, and instead of it where the viewer wants that.
function localise(page) {
  if (isUtc) return;
  const wanted = isLocal();
  for (const time of page.querySelectorAll("time")) {
    const moment = new Date(time.dateTime);
    const local = moment.toLocaleString(undefined, { timeZoneName: "short" });
    time.title = wanted ? `${local} = ${time.title}` : `${time.title} = ${local}`;
    if (!wanted || !time.classList.contains("clock")) continue;
    const isToday = time.textContent.length === 8;
    const date = isToday ? "" : `${moment.toLocaleDateString("sv-SE")} `;
    time.textContent = date + clockOf(moment, isToday ? {} : { hour: "2-digit", minute: "2-digit" });
  }
  for (const tick of wanted ? page.querySelectorAll("[data-at]") : []) {
    tick.textContent = clockOf(new Date(tick.dataset.at * 1000), { hour: "2-digit", minute: "2-digit" });
  }
  const [said, choice] = [page.getElementById("zone"), page.getElementById("switch")];
  if (wanted) say(said, `in ${zone}, as are all times here`);
  say(choice, wanted ? "Show times in UTC" : `Show times in ${zone}`);
  if (choice) choice.hidden = false;
}

function succeeded(next) {
  answeredAt = new Date();
  say(contact, "");
  localise(next);
  document.title = next.title;
  next.getElementById("contact").replaceWith(contact.cloneNode(true));
  const [pointer, shown] = [next.getElementById("pointer"), document.getElementById("pointer")];
  if (pointer && shown) pointer.textContent = shown.textContent;
  takeOver(document.body, next.body);
  point();
}

function update() {
  clearTimeout(timer);
  if (document.hidden) return;
  const request = new XMLHttpRequest();
  request.open("GET", location.href);
  request.responseType = "document";
  request.timeout = TIMEOUT_MS;
  request.onloadend = () => {
    timer = setTimeout(update, INTERVAL_MS);
    const next = (request.status === 200 || request.status === 404) && request.response;
    if (next && next.getElementById("contact")) succeeded(next);
    else say(contact, `No response since ${answeredAt.toISOString().slice(11, 19)} UTC; this data is old.`);
  };
  request.send();
}

// The value of a curve at a place, from the points of its path; undefined in a gap.
function valueAt(path, x) {
  for (const stretch of path.getAttribute("d").split("M").slice(1)) {
    const numbers = stretch.split(" ").map(Number);
    for (let place = 0; place + 3 < numbers.length; place += 2) {
      const [x0, y0, x1, y1] = numbers.slice(place, place + 4);
      if (x0 <= x && x <= x1) return 1 - (y0 + ((y1 - y0) * (x - x0)) / (x1 - x0 || 1)) / 100;
    }
  }
  return undefined;
}

function withUnit(value, unit) {
  if (unit === "%") return `${value.toFixed(0)} %`;
  const power = Math.min(4, Math.max(0, Math.floor(Math.log2(value || 1) / 10)));
  return `${(value / 1024 ** power).toFixed(power ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}/s`;
}

let pointed; // A place on the axis.
let entry; // The text of the entry under the pointer, or with the focus.
let isFirstTap = false;
let line;

const entryOf = (target) => target.closest && target.closest(".drawing a");

function point() {
  const drawing = document.querySelector(".drawing");
  if (entry !== undefined) say(document.getElementById("pointer"), entry);
  if (!drawing || pointed === undefined) return;
  const { start, end } = drawing.dataset;
  const moment = new Date(Number(start) + pointed * (end - start));
  const [utc, local] = [`${moment.toISOString().slice(11, 19)} UTC`, `${clockOf(moment)} ${zone}`];
  const parts = [isUtc ? utc : isLocal() ? `${local} (${utc})` : `${utc} (${local})`];
  for (const path of drawing.querySelectorAll("[data-top]")) {
    const value = valueAt(path, pointed * 1000);
    if (value !== undefined) parts.push(`${path.dataset.name} ${withUnit(value * path.dataset.top, path.dataset.unit)}`);
  }
  if (entry === undefined) say(document.getElementById("pointer"), parts.join(" · "));
  line ??= document.createElementNS("http://www.w3.org/2000/svg", "line");
  line.setAttribute("class", "pointer");
  const x = `${pointed * 100}%`;
  for (const [name, value] of Object.entries({ x1: x, x2: x, y1: 16, y2: "100%" })) line.setAttribute(name, value);
  if (line.parentNode !== drawing) drawing.append(line);
}

function pointAt(event) {
  const drawing = event.target.closest && event.target.closest(".drawing");
  if (!drawing) return;
  const found = entryOf(event.target);
  entry = found ? found.getAttribute("aria-label") : undefined;
  const box = drawing.getBoundingClientRect();
  pointed = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  point();
}

document.addEventListener("pointermove", pointAt);
document.addEventListener("pointerdown", (event) => {
  const found = entryOf(event.target);
  const isShown = found && found.getAttribute("aria-label") === document.getElementById("pointer").textContent;
  isFirstTap = event.pointerType !== "mouse" && found && !isShown;
  pointAt(event);
});
document.addEventListener("click", (event) => {
  // A finger cannot hover, so its first tap shows an entry, and the second one follows the link. A key has no detail.
  if (isFirstTap && event.detail > 0 && entryOf(event.target)) event.preventDefault();
  isFirstTap = false;
  if (event.target.id !== "switch") return;
  remember(isLocal() ? "utc" : "local");
  update();
});
// An entry that the keyboard reaches shows what its title says, and a command is selected, ready to copy.
document.addEventListener("focusin", (event) => {
  if (event.target.matches("code, pre:has(code)")) getSelection().selectAllChildren(event.target);
  const found = entryOf(event.target);
  if (!found) return;
  entry = found.getAttribute("aria-label");
  point();
});
// The page does not update in the background.
document.addEventListener("visibilitychange", update);
localise(document);
timer = setTimeout(update, INTERVAL_MS);
