/** ARIA tabs that follow the address: #scalars, #console, #resources, #info. */

const NAMES = ["scalars", "console", "resources", "info"];

/** @param {(name: string) => void} onShow  called with the tab that is shown now */
export function startTabs(onShow) {
  const tabs = NAMES.map((name) => /** @type {HTMLElement} */ (document.getElementById(`tab-${name}`)));
  const show = (name) => {
    NAMES.forEach((other, index) => {
      const chosen = other === name;
      tabs[index].setAttribute("aria-selected", String(chosen));
      tabs[index].tabIndex = chosen ? 0 : -1;
      /** @type {HTMLElement} */ (document.getElementById(`${other}-panel`)).hidden = !chosen;
    });
    onShow(name);
  };
  const fromAddress = () => {
    const name = location.hash.slice(1);
    show(NAMES.includes(name) ? name : NAMES[0]);
  };
  const go = (name) => {
    history.pushState(null, "", `${location.pathname}${location.search}#${name}`);
    show(name);
  };
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => go(NAMES[index]));
    tab.addEventListener("keydown", (event) => {
      const last = NAMES.length - 1;
      const to = {
        ArrowRight: index === last ? 0 : index + 1, ArrowLeft: index === 0 ? last : index - 1, Home: 0, End: last,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      tabs[to].focus();
      go(NAMES[to]);
    });
  });
  addEventListener("hashchange", fromAddress);
  addEventListener("popstate", fromAddress);
  fromAddress();
}
