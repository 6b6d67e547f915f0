// SPDX-License-Identifier: MIT
// Renews the overview every five seconds, while it is looked at and nobody is about to press something on it.
"use strict";
const EVERY_MS = 5000;
const busy = () => {
  const main = document.getElementById("main");
  const at = document.activeElement;
  return document.hidden || main.querySelector("details[open]") || (at && at !== main && main.contains(at)) ||
    String(document.getSelection()) !== "";
};
async function renew() {
  if (!busy()) {
    try {
      const answer = await fetch(location.href, { redirect: "error", headers: { accept: "text/html" } });
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        const main = fresh.getElementById("main");
        if (main && !busy()) {
          document.getElementById("main").replaceChildren(...main.childNodes);
          document.title = fresh.title;
          const footer = fresh.querySelector("footer");
          if (footer) document.querySelector("footer").replaceWith(footer);
        }
      }
      document.body.classList.remove("stale");
    } catch {
      document.body.classList.add("stale");
    }
  }
  setTimeout(renew, EVERY_MS);
}
setTimeout(renew, EVERY_MS);
