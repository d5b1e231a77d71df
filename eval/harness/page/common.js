"use strict";
const root = document.documentElement;
root.classList.add("js");
root.dataset.errors = "[]"; // what went wrong, for whoever looks at the page from outside
const note = (message) => { root.dataset.errors = JSON.stringify([...JSON.parse(root.dataset.errors), message]); };
addEventListener("error", (event) => note(event.message));
addEventListener("unhandledrejection", (event) => note(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => note(`blocked: ${event.blockedURI}`));
