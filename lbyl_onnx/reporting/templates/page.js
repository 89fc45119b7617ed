// What a mark says is shown below its picture; each picture is one stop of the Tab key, arrow keys go through its marks.
for (const picture of document.querySelectorAll("figure svg")) {
  const marks = [...picture.querySelectorAll(".mark")];
  const told = picture.closest("figure").querySelector(".told");
  told.hidden = false;
  marks.forEach((mark, index) => {
    const tell = () => { told.textContent = mark.querySelector("title").textContent; };
    mark.setAttribute("tabindex", index ? -1 : 0);
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", mark.querySelector("title").textContent);
    mark.addEventListener("focus", tell);
    mark.addEventListener("pointerenter", tell);
    mark.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = step && marks[index + step];
      if (next) {
        mark.setAttribute("tabindex", -1);
        next.setAttribute("tabindex", 0);
        next.focus();
        event.preventDefault();
      }
    });
  });
}
