// Start the drawings of a page that contains its data.
document.documentElement.classList.add("scripted");
show(JSON.parse(byId("data").textContent));
