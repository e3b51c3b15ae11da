/* MixStudio in the browser: what must work without asking the server. */
(() => {
  const KEY = "mixstudio.";
  const get = (name) => { try { return localStorage.getItem(KEY + name) || ""; } catch { return ""; } };
  const set = (name, value) => { try { localStorage.setItem(KEY + name, value || ""); } catch { /* private mode */ } };
  const random = () => [...crypto.getRandomValues(new Uint8Array(9))].map((b) => b.toString(16).padStart(2, "0")).join("");

  /* --- language and theme --- */
  const cookie = (name) => (document.cookie.match("(?:^|; )" + name + "=([^;]*)") || [])[1] || "";
  const speak = (language) => {
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
    document.documentElement.dataset.lang = language;
  };
  const setLanguage = (language) => {
    document.cookie = `mixstudio_lang=${language}; path=/; max-age=31536000; SameSite=Lax`;
    speak(language);
    refreshQueue();
  };
  const paint = () => {
    const wish = get("theme") || document.documentElement.dataset.theme || "auto";
    const dark = wish === "dark" || (wish !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.body.classList.toggle("dark", dark);
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
  };
  const setTheme = (wish) => { set("theme", wish === "auto" ? "" : wish); paint(); };
  const toggleTheme = () => setTheme(document.body.classList.contains("dark") ? "light" : "dark");

  /* --- forms --- */
  const waiting = {};
  const remember = (name, keys, values) => {
    clearTimeout(waiting[name]);
    waiting[name] = setTimeout(() => {
      const kept = {};
      keys.forEach((key, i) => { kept[key] = values[i]; });
      set("form." + name, JSON.stringify(kept));
    }, 250);
  };
  const recall = (name) => get("form." + name);
  const owner = () => { if (!get("owner")) set("owner", random()); return get("owner"); };

  /* --- queue drawer --- */
  let drawer = null;
  const fetchText = (path, options) => fetch(path, { credentials: "same-origin", ...options });
  const refreshQueue = async () => {
    try {
      const answer = await fetchText("/ui/queue?mine=" + encodeURIComponent(owner()));
      if (!answer.ok) return;
      const told = await answer.json();
      const count = document.querySelector("#queue_open");
      if (count) {
        count.dataset.count = told.open ? String(told.open) : "";
      }
      if (drawer && drawer.dataset.shown !== told.html) {
        drawer.dataset.shown = told.html;
        drawer.querySelector(".ms-list").innerHTML = told.html;
        drawer.querySelector("h2").textContent = told.title;
        drawer.querySelector("header button").textContent = told.close;
      }
    } catch { /* the studio is away for a moment; the next look tells */ }
  };
  const makeDrawer = () => {
    drawer = document.createElement("aside");
    drawer.id = "ms_drawer";
    drawer.setAttribute("aria-label", "Queue");
    drawer.innerHTML = '<header><h2>Queue</h2><button type="button" data-act="close">Close</button></header><div class="ms-list"></div>';
    drawer.addEventListener("click", async (event) => {
      const button = event.target.closest("button[data-act]");
      if (!button) return;
      if (button.dataset.act === "close") return openQueue(false);
      await fetchText(`/ui/queue/${button.dataset.job}/${button.dataset.act}`, { method: "POST" });
      refreshQueue();
    });
    document.body.append(drawer);
  };
  const openQueue = (open) => {
    const now = open === undefined ? !drawer.classList.contains("ms-open") : open;
    drawer.classList.toggle("ms-open", now);
    document.querySelector("#queue_open")?.setAttribute("aria-expanded", String(now));
    if (now) { refreshQueue(); drawer.querySelector("header button").focus(); }
    else document.querySelector("#queue_open")?.focus();
  };

  /* --- keyboard --- */
  const visible = (element) => element && element.offsetParent !== null;
  const press = (selector) => {
    const button = [...document.querySelectorAll(selector)].find(visible);
    if (button) button.click();
    return Boolean(button);
  };
  const type = (area, text, from, to) => {
    const set = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set;
    set.call(area, text);
    area.dispatchEvent(new Event("input", { bubbles: true }));
    area.setSelectionRange(from, to);
  };
  /* Ctrl+Up/Down: the weight of the words under the cursor, in the WebUI's brackets. */
  const weigh = (area, up) => {
    const text = area.value;
    let from = area.selectionStart, to = area.selectionEnd;
    const open = text.lastIndexOf("(", from), close = text.indexOf(")", Math.max(to - 1, 0));
    const inside = open >= 0 && close >= to - 1 ? text.slice(open, close + 1) : "";
    const found = /^\(([^()]*):([\d.]+)\)$/.exec(inside);
    if (found && close >= from - 1) {
      const weight = Math.round((parseFloat(found[2]) + (up ? 0.1 : -0.1)) * 100) / 100;
      const fresh = weight === 1 || weight <= 0 ? found[1] : `(${found[1]}:${weight})`;
      const start = fresh === found[1] ? open : open + 1;
      return type(area, text.slice(0, open) + fresh + text.slice(close + 1), start, start + found[1].length);
    }
    if (from === to) {
      while (from > 0 && !/[\s,()]/.test(text[from - 1])) from -= 1;
      while (to < text.length && !/[\s,()]/.test(text[to])) to += 1;
    }
    while (from < to && text[to - 1] === " ") to -= 1;
    if (from === to) return undefined;
    const words = text.slice(from, to);
    type(area, `${text.slice(0, from)}(${words}:${up ? 1.1 : 0.9})${text.slice(to)}`, from + 1, from + 1 + words.length);
    return undefined;
  };
  document.addEventListener("keydown", (event) => {
    const command = event.ctrlKey || event.metaKey;
    if (command && event.key === "Enter") {
      if (press("button.ms-go")) event.preventDefault();
    } else if (event.key === "Escape") {
      if (drawer?.classList.contains("ms-open")) openQueue(false);
      else if (!document.querySelector("[role=listbox]")) press("button.ms-stop");
    } else if (command && (event.key === "ArrowUp" || event.key === "ArrowDown") && event.target.closest?.(".ms-prompt textarea")) {
      event.preventDefault();
      weigh(event.target, event.key === "ArrowUp");
    }
  }, true);

  /* --- LoRA cards: a click puts tag and trigger words into the prompt, another takes them out --- */
  const toggleWords = (prompt, name, weight, words) => {
    const tag = new RegExp(`\\s*<lora:${name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}(:[^>]*)?>`, "g");
    if (tag.test(prompt)) {
      let rest = prompt.replace(tag, "");
      if (words && rest.includes(words)) rest = rest.replace(words, "");
      return rest.replace(/(\s*,\s*){2,}/g, ", ").replace(/^[\s,]+|[\s,]+$/g, "");
    }
    const parts = [prompt.trim().replace(/,$/, "")];
    if (words && !prompt.includes(words)) parts.push(words);
    return parts.filter(Boolean).join(", ") + ` <lora:${name}:${weight}>`;
  };

  const promptArea = () => document.querySelector("#create_prompt textarea");
  const lora = (name, weight, words) => {
    const area = promptArea();
    if (!area) return;
    const fresh = toggleWords(area.value, name, weight, words);
    type(area, fresh, fresh.length, fresh.length);
    markLoras();
  };
  const markLoras = () => {
    const text = promptArea()?.value || "";
    for (const card of document.querySelectorAll("[data-lora]"))
      card.setAttribute("aria-pressed", String(text.includes(`<lora:${card.dataset.lora}:`) || text.includes(`<lora:${card.dataset.lora}>`)));
  };
  document.addEventListener("input", (event) => { if (event.target === promptArea()) markLoras(); });

  window.mix = { get, set, remember, recall, owner, setLanguage, speak, setTheme, toggleTheme, openQueue, refreshQueue, toggleWords, cookie, lora, type };
  window.mixReady = async () => window.mix;
  const start = () => {
    speak(cookie("mixstudio_lang") || document.documentElement.dataset.first || "en");
    paint();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
    makeDrawer();
    refreshQueue();
    setInterval(() => { if (!document.hidden) refreshQueue(); }, 2000);
  };
  if (document.body) start(); else document.addEventListener("DOMContentLoaded", start);
})();
