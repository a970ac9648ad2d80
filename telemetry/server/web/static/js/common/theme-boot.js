// Runs before the first paint, as a classic script: a module would come after it and the page would flash.
(() => {
  try {
    const theme = localStorage.getItem("telemetry.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is forbidden (a privacy setting): the system's theme is used.
  }
})();
