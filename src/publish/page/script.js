// Updates the page: fetches it again and replaces only what has changed, so that focus, scrolling and selection stay.
// Without scripts the page has the same content and reloads itself.
"use strict";

const INTERVAL_MS = 2000;
const TIMEOUT_MS = 10000;
const contact = document.getElementById("contact");
let timer;
let answeredAt = new Date();

function takeOver(old, next) {
  if (old.isEqualNode(next)) return;
  if (old.nodeType !== Node.ELEMENT_NODE || old.nodeName !== next.nodeName) {
    old.replaceWith(next);
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name)) old.removeAttribute(name);
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

function say(text) {
  if (contact.textContent !== text) contact.textContent = text;
}

function succeeded(next) {
  answeredAt = new Date();
  say("");
  document.title = next.title;
  next.getElementById("contact").replaceWith(contact.cloneNode(true));
  takeOver(document.body, next.body);
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
    const next = request.status === 200 && request.response;
    if (next && next.getElementById("contact")) succeeded(next);
    else say(`No response since ${answeredAt.toISOString().slice(11, 19)} UTC; this data is old.`);
  };
  request.send();
}

// The page does not update in the background.
document.addEventListener("visibilitychange", update);
timer = setTimeout(update, INTERVAL_MS);
