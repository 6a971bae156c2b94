// Dark or light: as the system says, or as the user chose. Loaded before the page is drawn, so that it never flashes.
(function () {
  const ORDER = ["system", "light", "dark"];
  const WORDS = { system: "as the system", light: "light", dark: "dark" };

  function stored() {
    try {
      const value = localStorage.getItem("theme");
      return ORDER.includes(value) ? value : "system";
    } catch {
      return "system"; // storage is switched off
    }
  }

  function apply(choice) {
    if (choice === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
  }

  let choice = stored();
  apply(choice);
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => (button.textContent = `Theme: ${WORDS[choice]}`);
    show();
    button.addEventListener("click", () => {
      choice = ORDER[(ORDER.indexOf(choice) + 1) % ORDER.length];
      try {
        localStorage.setItem("theme", choice);
      } catch {
        // It holds until the page is left.
      }
      apply(choice);
      show();
    });
  });
})();
