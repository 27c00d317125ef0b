// What the desk's pages remember, and unfold's own parts, where expressions in pages may not reach for the window.
document.addEventListener("alpine:init", () => {
  for (const [name, make] of Object.entries({ theme, searchForm, searchDropdown, searchCommand })) {
    Alpine.data(name, make);
  }

  Alpine.data("desk", () => ({
    activeTab: "",
    sidebarMobileOpen: false,
    sidebarDesktopOpen: localStorage.getItem("sidebarDesktopOpen") !== "0",
    // A form's address names its tab; only these two parts of the window are read for it.
    window: { location: { pathname: location.pathname, search: location.search } },
    init() {
      this.activeTab = (this.$el.dataset.tab && (getCurrentTab() || this.$el.dataset.tab)) || "";
      this.$watch("sidebarDesktopOpen", (open) => localStorage.setItem("sidebarDesktopOpen", open ? "1" : "0"));
    },
  }));
});

// What scrolls can be scrolled by keyboard; boxes that another library draws are named as their labels are.
window.addEventListener("load", () => {
  for (const part of document.querySelectorAll(".readonly, .readonly pre, .summary, .simplebar-content-wrapper")) {
    if (part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight) {
      part.tabIndex = 0;
    }
  }
  // After the handlers of those who draw them.
  setTimeout(() => {
    for (const box of document.querySelectorAll(".select2-selection")) {
      const label = box.closest(".select2-container")?.previousElementSibling?.labels?.[0];
      if (label) {
        for (const part of [box, ...box.querySelectorAll("[role=textbox]")]) {
          part.removeAttribute("aria-labelledby");
          part.setAttribute("aria-label", label.textContent.trim());
        }
      }
    }
    for (const hint of document.querySelectorAll("span[aria-label]:not([role])")) {
      hint.setAttribute("role", "img");
    }
  });
});
