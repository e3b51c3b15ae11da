"""The login page: the only one that is shown without the studio behind it."""

from app.i18n import translate

STYLE = """
:root { color-scheme: light dark; --bg: #f3f5f5; --card: #fff; --ink: #16211f; --soft: #5b6b68; --line: #d5dddb;
  --accent: #0e6e6b; --on: #fff; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --bg: #101615; --card: #182120; --ink: #e4ecea; --soft: #93a5a1;
  --line: #2b3836; --accent: #4fbdb3; --on: #06201d; --bad: #ff8a80; } }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }
form { width: min(22rem, 100vw - 3rem); padding: 2rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 14px; display: grid; gap: 1rem; }
h1 { margin: 0; font-size: 1.25rem; display: flex; gap: .6rem; align-items: center; }
h1 img { width: 2rem; height: 2rem; }
label { display: grid; gap: .3rem; font-size: .9rem; color: var(--soft); }
input { font: inherit; color: var(--ink); background: var(--bg); border: 1px solid var(--line); border-radius: 8px;
  padding: .55rem .7rem; }
button { font: inherit; font-weight: 600; color: var(--on); background: var(--accent); border: 0; border-radius: 8px;
  padding: .65rem; cursor: pointer; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
p { margin: 0; color: var(--bad); }
"""
TROUBLES = {
    "wrong": "That was not right. Check user and password and try again.",
    "many": "Too many wrong tries. Wait a minute, then try again.",
}


def page(language: str, trouble: str = "", with_user: bool = True) -> str:
    """The page as HTML; `trouble` is a key of TROUBLES, `with_user` False where only a token is set."""

    def t(text: str) -> str:
        return translate(text, language)

    said = f'<p role="alert">{t(TROUBLES[trouble])}</p>' if trouble else ""
    user = f'<label>{t("User")}<input name="user" autocomplete="username" autofocus></label>' if with_user else ""
    secret = t("Password") if with_user else t("Token")
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>MixStudio</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f'<form method="post" action="/login"><h1><img src="/studio/icon.svg" alt="">MixStudio</h1>{said}{user}'
        f'<label>{secret}<input name="password" type="password" autocomplete="current-password"></label>'
        f"<button>{t('Log in')}</button></form></body></html>"
    )
