/** ARIA tabs that follow the address: `#console`, or `#artifacts/model` for something within a tab. */

const NARROW = "(max-width: 720px)";

/**
 * Start the tabs of the page's one tab list: a button `tab-<name>` for each panel `<name>-panel`.
 * @param {(name: string, detail: string) => void} onShow  called with the tab that is shown now, and what is asked for within it
 */
export function startTabs(onShow) {
  const tabs = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[role=tab]")]);
  const names = tabs.map((tab) => tab.id.replace("tab-", ""));
  const panelOf = (name) => /** @type {HTMLElement} */ (document.getElementById(`${name}-panel`));
  // On a phone the tabs are wider than the window.
  const scrollToChosen = () =>
    matchMedia(NARROW).matches && tabs.filter((tab) => tab.tabIndex === 0).forEach(scrollIntoList);
  const show = (name, detail = "") => {
    names.forEach((other, index) => {
      const chosen = other === name;
      tabs[index].setAttribute("aria-selected", String(chosen));
      tabs[index].tabIndex = chosen ? 0 : -1;
      panelOf(other).hidden = !chosen;
    });
    scrollToChosen();
    onShow(name, detail);
  };
  const fromAddress = () => {
    const [name, detail] = splitHash();
    show(names.includes(name) ? name : names[0], detail);
  };
  const go = (name) => {
    history.pushState(null, "", `${location.pathname}${location.search}#${name}`);
    show(name);
  };
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => go(names[index]));
    tab.addEventListener("keydown", (event) => {
      const last = names.length - 1;
      const to = {
        ArrowRight: index === last ? 0 : index + 1,
        ArrowLeft: index === 0 ? last : index - 1,
        Home: 0,
        End: last,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      tabs[to].focus();
      go(names[to]);
    });
  });
  // The list has no width until the task is there.
  if (tabs[0]?.parentElement) new ResizeObserver(scrollToChosen).observe(tabs[0].parentElement);
  addEventListener("hashchange", fromAddress);
  addEventListener("popstate", fromAddress);
  fromAddress();
}

/**
 * Say by a quieter look that a tab has nothing in it, and how many it has.
 * @param {string} name
 * @param {number} count
 */
export function markTab(name, count) {
  const tab = document.getElementById(`tab-${name}`);
  tab?.classList.toggle("nothing", count === 0);
}

/** @returns {[string, string]} the tab of the address and what it asks for within it */
function splitHash() {
  const [, name, detail] = /^#?([^/]*)\/?(.*)$/s.exec(location.hash) ?? ["", "", ""];
  try {
    return [name, decodeURIComponent(detail)];
  } catch {
    return [name, ""]; // a "%" that encodes nothing
  }
}

function scrollIntoList(tab) {
  const list = tab.parentElement;
  if (list) list.scrollLeft = tab.offsetLeft - (list.clientWidth - tab.offsetWidth) / 2;
}
