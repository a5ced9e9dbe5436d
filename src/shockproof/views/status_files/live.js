// Keeps the page as it is now. Without this script it is whole as well: it only does not move.
"use strict";
(() => {
  const main = document.querySelector("main[data-live]");
  const sign = document.getElementById("live");
  const LATE = 5000, LOST = 15000, AGAIN = 3000; // milliseconds
  let version = main.dataset.version;
  let source = null, heard = performance.now(), opened = 0, again = 0;

  function show(state, words) {
    if (sign.dataset.state !== state || sign.textContent !== words) {
      sign.dataset.state = state;
      sign.textContent = words;
    }
  }

  function element(markup) {
    // Parsed as the inside of a table where it is a row: anywhere else the parser drops its tags.
    const template = document.createElement("template");
    template.innerHTML = markup;
    return template.content.firstElementChild;
  }

  // What is the same stays: focus, selection, scroll, and what a screen reader is about to say.
  function become(old, wanted) {
    // Another id is another thing: what was a link to something must not become one to something else under a finger.
    if (old.nodeType !== wanted.nodeType || old.nodeName !== wanted.nodeName || old.id !== wanted.id) {
      old.replaceWith(wanted);
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== wanted.nodeValue) old.nodeValue = wanted.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) if (!wanted.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of [...wanted.attributes]) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const before = [...old.childNodes], after = [...wanted.childNodes];
    after.forEach((child, place) => {
      if (place < before.length) become(before[place], child);
      else old.append(child);
    });
    before.slice(after.length).forEach((child) => child.remove());
  }

  function arrange(list, ids, parts, isFirst) {
    const wanted = new Set(ids);
    for (const child of [...list.children]) if (!wanted.has(child.id)) child.remove();
    let place = list.firstElementChild;
    for (const id of ids) {
      if (place !== null && place.id === id) {
        place = place.nextElementSibling;
        continue;
      }
      let member = document.getElementById(id);
      if (member === null) {
        member = element(parts[id]);
        if (!isFirst) member.classList.add("new");
      }
      const focused = member.contains(document.activeElement) ? document.activeElement : null;
      list.insertBefore(member, place);
      if (focused !== null) focused.focus({ preventScroll: true });
    }
  }

  function patch({ parts, lists, whole }) {
    const active = document.activeElement;
    for (const [id, markup] of Object.entries(parts)) {
      const old = document.getElementById(id);
      if (old === null) continue;
      const hadFocus = old.contains(active);
      become(old, element(markup));
      // What had the focus is gone: it goes to what is there in its place, and not to the top of the page.
      if (hadFocus && !active.isConnected) {
        document.getElementById(id).querySelector("a, button, input")?.focus({ preventScroll: true });
      }
    }
    for (const [id, ids] of Object.entries(lists)) arrange(document.getElementById(id), ids, parts, whole);
  }

  function open() {
    close();
    opened = performance.now();
    source = new EventSource(`${main.dataset.live}&after=${encodeURIComponent(version)}`);
    source.addEventListener("patch", (event) => {
      heard = performance.now();
      version = event.lastEventId;
      patch(JSON.parse(event.data));
      show("live", "live");
    });
    source.addEventListener("error", () => {
      if (source !== null && source.readyState === EventSource.CLOSED) {
        // Refused, and the browser has given up.
        close();
        again = setTimeout(open, AGAIN);
      }
    });
  }

  function close() {
    clearTimeout(again);
    if (source !== null) source.close();
    source = null;
  }

  setInterval(() => {
    if (document.hidden) return;
    const now = performance.now(), silent = now - heard;
    if (silent > LATE) show(silent > LOST ? "lost" : "late", `no word for ${Math.round(silent / 1000)} s`);
    if (silent > LOST && now - opened > LOST) open();
  }, 1000);
  // A page that nobody sees costs the program nothing.
  document.addEventListener("visibilitychange", () => {
    heard = performance.now();
    if (document.hidden) close();
    else open();
  });
  show("off", "connecting");
  if (!document.hidden) open();
})();
