// Each slider and each square stands for itself: there is no state beside what is on the screen.

for (const compare of document.querySelectorAll(".compare")) {
  const range = compare.querySelector("input");
  const [left, ...rights] = compare.querySelectorAll("img");
  const select = compare.closest(".photo").querySelector(".right-side");
  const move = () => compare.style.setProperty("--at", `${range.value}%`);
  const choose = () => {
    const side = select ? select.value : rights[0].dataset.side;
    for (const image of rights) image.hidden = image.dataset.side !== side;
    compare.querySelector(".caption.right").textContent = side;
  };
  compare.querySelector(".caption.left").textContent = left.dataset.side;
  range.addEventListener("input", move);
  select?.addEventListener("change", choose);
  move(); // after a reload the browser puts back what was chosen
  choose();
}

const large = document.getElementById("large");
let squares = []; // of the photo that is enlarged
let at = 0;

function show(i) {
  at = (i + squares.length) % squares.length;
  const small = squares[at].querySelector("img");
  const image = large.querySelector("img");
  image.src = small.src;
  image.alt = small.alt;
  image.style.setProperty("--ratio", small.width / small.height);
  large.querySelector("output").textContent = squares[at].nextElementSibling.textContent;
}

for (const button of document.querySelectorAll(".enlarge")) {
  button.addEventListener("click", () => {
    squares = [...button.closest(".photo").querySelectorAll(".enlarge")];
    show(squares.indexOf(button));
    large.showModal();
  });
}
document.getElementById("previous").addEventListener("click", () => show(at - 1));
document.getElementById("next").addEventListener("click", () => show(at + 1));
document.getElementById("close").addEventListener("click", () => large.close());
large.addEventListener("click", (event) => { if (event.target === large) large.close(); }); // beside it
large.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) { show(at + step); event.preventDefault(); }
});
