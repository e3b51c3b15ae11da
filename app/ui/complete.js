/* Suggestions for the word at the cursor of a prompt: arrows choose, Tab (or Enter after an arrow) takes, Escape closes. */
(() => {
  let list = null, area = null, from = 0, found = [], at = -1, timer = 0, asked = 0;
  const close = () => {
    clearTimeout(timer);
    asked += 1;
    list?.remove();
    area?.removeAttribute("aria-activedescendant");
    list = null; found = []; at = -1;
  };
  const word = (target) => {
    if (target.selectionStart !== target.selectionEnd) return "";
    const before = target.value.slice(0, target.selectionStart);
    const match = /(?:<[^<>]*|__[\w\-./]*|[^\s,(){}|[\]<>][^,(){}|[\]<>\n]*)$/.exec(before);
    const told = match ? match[0] : "";
    from = target.selectionStart - told.length;
    return told;
  };
  const mark = (place) => {
    at = (place + found.length) % found.length;
    [...list.children].forEach((row, i) => row.setAttribute("aria-selected", String(i === at)));
    list.children[at].scrollIntoView({ block: "nearest" });
    area.setAttribute("aria-activedescendant", list.children[at].id);
  };
  const take = (place) => {
    const one = found[place], target = area, caret = target.selectionStart, rest = target.value.slice(caret);
    const text = one.insert + (one.comma && !/^\s*,/.test(rest) ? ", " : "");
    const whole = target.value.slice(0, from) + text + rest;
    const end = from + text.length;
    window.mix.type(target, whole, end, end);
    close(); // what was typed so asks for nothing more
    target.focus();
  };
  const row = (one, i) => {
    const made = document.createElement("div");
    made.id = `ms-complete-${i}`;
    made.setAttribute("role", "option");
    for (const [kind, text] of [["b", one.text], ["span", one.note], ["small", one.kind]]) {
      const part = document.createElement(kind);
      part.textContent = text;
      made.append(part);
    }
    made.addEventListener("pointerdown", (event) => { event.preventDefault(); take(i); });
    return made;
  };
  const show = (target, told) => {
    close();
    if (!told.length || document.activeElement !== target) return;
    area = target; found = told;
    list = document.createElement("div");
    list.className = "ms-complete";
    list.setAttribute("role", "listbox");
    list.append(...told.map(row));
    const place = target.getBoundingClientRect();
    list.style.left = `${place.left}px`;
    list.style.top = `${place.bottom + 2}px`;
    list.style.width = `${Math.min(place.width, 460)}px`;
    document.body.append(list);
  };
  document.addEventListener("input", (event) => {
    const target = event.target;
    if (!target.closest?.(".ms-prompt") || target.tagName !== "TEXTAREA") return;
    clearTimeout(timer);
    const told = word(target), start = from;
    if (told.length < 2 && !told.startsWith("<")) return close();
    const mine = (asked += 1);
    timer = setTimeout(async () => {
      try {
        const answer = await fetch("/ui/complete?word=" + encodeURIComponent(told.slice(-100)), { credentials: "same-origin" });
        const suggestions = answer.ok ? await answer.json() : [];
        if (mine !== asked) return;
        show(target, suggestions);
        from = start;
      } catch { close(); }
    }, 120);
    return undefined;
  });
  document.addEventListener("keydown", (event) => {
    if (!list || event.target !== area || event.ctrlKey || event.metaKey || event.isComposing) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") mark(at < 0 && event.key === "ArrowUp" ? -1 : at + (event.key === "ArrowDown" ? 1 : -1));
    else if (event.key === "Tab" || (event.key === "Enter" && at >= 0)) take(Math.max(at, 0));
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }, true);
  document.addEventListener("focusout", (event) => { if (event.target === area) close(); });
  window.addEventListener("scroll", (event) => { if (list && event.target !== list) close(); }, true);
})();
