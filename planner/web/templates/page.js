"use strict";
(function () {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const files = JSON.parse(document.getElementById("files").textContent);
  const options = { renderer: "svg", actions: false };
  const narrow = window.matchMedia("(max-width: 40rem)").matches;
  for (const [name, spec] of Object.entries(specs)) {
    if (narrow) spec.config.legend.columns = 2;
    window.vegaEmbed("#" + CSS.escape(name), spec, options).catch(function (error) {
      console.error(name, error);
    });
  }
  for (const button of document.querySelectorAll("button[data-save]")) {
    button.addEventListener("click", function () {
      const text = files[button.dataset.save];
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
      link.download = button.dataset.save;
      link.click();
      setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
    });
  }
})();
