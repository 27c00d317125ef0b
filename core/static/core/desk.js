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
