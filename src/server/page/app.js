// SPDX-License-Identifier: MIT
// The chat page. Conversations stay in this browser; the model's text is shown
// as Markdown without any HTML of its own.
"use strict";

const element = (id) => document.getElementById(id);
const settings = ["system", "temperature", "top_p", "top_k", "min_p",
  "max_tokens", "seed", "thinking", "key"];
const numbers = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];

let conversations = load("conversations", []);
let current = conversations[0] || null;
let running = null; // the AbortController of the answer under way
let model = "default";

const markdown = window.markdownit &&
  window.markdownit({ html: false, linkify: false, highlight });
if (markdown) {
  // Pictures would be requests to other sites.
  markdown.disable("image");
  const open = markdown.renderer.rules.link_open ||
    ((tokens, at, options, env, self) => self.renderToken(tokens, at, options));
  markdown.renderer.rules.link_open = (tokens, at, options, env, self) => {
    tokens[at].attrSet("rel", "noopener noreferrer nofollow");
    tokens[at].attrSet("target", "_blank");
    return open(tokens, at, options, env, self);
  };
  // The page's policy allows no styles within elements: a column's alignment
  // becomes a class.
  for (const rule of ["th_open", "td_open"]) {
    markdown.renderer.rules[rule] = (tokens, at, options, env, self) => {
      const token = tokens[at];
      const side = /^text-align:(left|center|right)$/.exec(token.attrGet("style"));
      token.attrs = side ? [["class", side[1]]] : null;
      return self.renderToken(tokens, at, options);
    };
  }
}

function highlight(code, language) {
  if (!window.hljs || !language || !window.hljs.getLanguage(language)) {
    return "";
  }
  try {
    return window.hljs.highlight(language, code, true).value;
  } catch (error) {
    return "";
  }
}

function load(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem("qwen3-mlx." + name)) || fallback;
  } catch (error) {
    return fallback;
  }
}

function save(name, value) {
  try {
    localStorage.setItem("qwen3-mlx." + name, JSON.stringify(value));
  } catch (error) {
    element("status").textContent = "This browser keeps no conversations.";
  }
}

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      node.addEventListener(name.slice(2), value);
    } else if (value !== null) {
      node.setAttribute(name, value);
    }
  }
  node.append(...children);
  return node;
}

function showText(node, text) {
  if (markdown) {
    node.innerHTML = markdown.render(text); // html: false escapes all of it
  } else {
    node.classList.add("plain");
    node.textContent = text;
  }
}

// Open while the model thinks, then folded, unless the reader wants otherwise.
function showThinking(message) {
  const summary = make("summary", { onclick: () => {
    message.isOpen = !summary.parentElement.open; // as it will be
  } }, "Thinking");
  const details = make("details", {}, summary,
    make("div", { class: "thinking" }, message.reasoning));
  details.open = Boolean(message.isOpen ?? message.isThinking);
  return details;
}

function copyButton(message) {
  const button = make("button", { type: "button", onclick: async () => {
    await navigator.clipboard.writeText(message.content);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  } }, "Copy");
  // Browsers have it on secure origins and on loopback.
  button.hidden = !navigator.clipboard;
  return button;
}

function showMessage(message, index) {
  const isUser = message.role === "user";
  const text = make("div", { class: "text" });
  const node = make("article", { class: message.role },
    make("h2", {}, isUser ? "You" : "Model"));
  if (message.reasoning) {
    node.append(showThinking(message));
  }
  if (isUser) {
    text.textContent = message.content;
  } else {
    showText(text, message.content);
  }
  node.append(text);
  if (message.error) {
    node.append(make("p", { class: "error", role: "alert" }, message.error));
  }
  const tools = make("div", { class: "tools" });
  if (isUser) {
    tools.append(make("button", { type: "button", onclick: () => edit(index) }, "Edit"));
  } else {
    tools.append(
      make("button", { type: "button", onclick: () => regenerate(index) }, "Regenerate"),
      copyButton(message));
    if (message.speed) {
      tools.append(make("span", {}, message.speed));
    }
  }
  node.append(tools);
  return node;
}

function show() {
  const list = element("conversations");
  list.replaceChildren(...conversations.map((conversation) => make("li",
    { "aria-current": conversation === current ? "true" : null },
    make("button", { type: "button", onclick: () => choose(conversation) },
      conversation.title || "New conversation"),
    make("button", { type: "button", "aria-label": "Delete " + conversation.title,
      onclick: () => remove(conversation) }, "×"))));
  const messages = element("messages");
  messages.replaceChildren(...(current ? current.messages : []).map(showMessage));
  messages.scrollTop = messages.scrollHeight;
}

// While an answer comes only its texts change: what the reader points at or has
// selected elsewhere stays.
function showGrowth(node, message) {
  const details = node.querySelector("details");
  if (message.reasoning && !details) {
    node.querySelector(".text").before(showThinking(message));
  } else if (details) {
    const thinking = details.querySelector(".thinking");
    if (thinking.textContent !== message.reasoning) {
      thinking.textContent = message.reasoning;
    }
    details.open = Boolean(message.isOpen ?? message.isThinking);
  }
  if (message.content) {
    showText(node.querySelector(".text"), message.content);
  }
}

function showLast() {
  const messages = element("messages");
  const index = current.messages.length - 1;
  const message = current.messages[index];
  const atEnd = messages.scrollHeight - messages.scrollTop - messages.clientHeight < 80;
  if (messages.children.length <= index) {
    messages.append(showMessage(message, index));
  } else if (running) {
    showGrowth(messages.lastElementChild, message);
  } else {
    messages.lastElementChild.replaceWith(showMessage(message, index));
  }
  if (atEnd) {
    messages.scrollTop = messages.scrollHeight;
  }
}

function showMenu(isOpen) {
  element("sidebar").classList.toggle("open", isOpen);
  element("menu").setAttribute("aria-expanded", String(isOpen));
}

function choose(conversation) {
  stop();
  current = conversation;
  showMenu(false);
  show();
  element("input").focus();
}

function remove(conversation) {
  if (conversation === current) {
    stop();
  }
  conversations = conversations.filter((other) => other !== conversation);
  current = conversation === current ? conversations[0] || null : current;
  save("conversations", conversations);
  show();
}

function begin() {
  stop();
  current = { title: "", messages: [] };
  conversations.unshift(current);
  showMenu(false);
  show();
  element("input").focus();
}

function edit(index) {
  stop();
  element("input").value = current.messages[index].content;
  current.messages.length = index;
  show();
  element("input").focus();
}

function regenerate(index) {
  stop();
  current.messages.length = index;
  show();
  answer();
}

function stop() {
  running?.abort();
}

function headers() {
  const key = element("key").value;
  return { "Content-Type": "application/json",
    ...(key ? { Authorization: "Bearer " + key } : {}) };
}

function requestBody() {
  const messages = current.messages
    .filter((message) => !message.isEmpty)
    .map(({ role, content }) => ({ role, content }));
  if (element("system").value.trim()) {
    messages.unshift({ role: "system", content: element("system").value });
  }
  const body = { model, messages, stream: true,
    stream_options: { include_usage: true },
    enable_thinking: element("thinking").checked };
  for (const name of numbers) {
    if (element(name).value !== "") {
      body[name] = Number(element(name).value);
    }
  }
  return body;
}

// The JSON of each event of a stream.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) {
      return;
    }
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const line = text.slice(0, end);
      text = text.slice(end + 2);
      if (line.startsWith("data: ") && line !== "data: [DONE]") {
        yield JSON.parse(line.slice(6));
      }
    }
  }
}

async function answer() {
  const conversation = current;
  const body = requestBody();
  const reply = { role: "assistant", content: "", reasoning: "" };
  conversation.messages.push(reply);
  running = new AbortController();
  const control = running;
  element("send").hidden = true;
  element("stop").hidden = false;
  element("messages").setAttribute("aria-busy", "true"); // read out at the end
  element("status").textContent = "Waiting for the model …";
  showLast();
  try {
    const response = await fetch("/v1/chat/completions", { method: "POST",
      headers: headers(), body: JSON.stringify(body), signal: control.signal });
    if (!response.ok) {
      const { error } = await response.json();
      throw new Error(error.message);
    }
    for await (const event of events(response)) {
      if (event.error) {
        throw new Error(event.error.message);
      }
      const delta = event.choices[0]?.delta || {};
      reply.content += delta.content || "";
      reply.reasoning += delta.reasoning_content || "";
      reply.isThinking = Boolean(delta.reasoning_content);
      if (event.timings) {
        reply.speed = event.timings.predicted_per_second.toFixed(1) +
          " tokens/s · " + event.usage.completion_tokens + " tokens";
      }
      if (current === conversation) {
        element("status").textContent = "";
        showLast();
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      reply.error = error.message;
    }
  }
  reply.isThinking = false;
  reply.isEmpty = !reply.content;
  if (running === control) {
    running = null;
    element("send").hidden = false;
    element("stop").hidden = true;
    element("messages").removeAttribute("aria-busy");
    element("status").textContent = "";
  }
  save("conversations", conversations);
  if (current === conversation) {
    showLast();
  }
}

function send(event) {
  event.preventDefault();
  const content = element("input").value.trim();
  if (!content || running) {
    return;
  }
  if (!current) {
    begin();
  }
  current.title = current.title || content.slice(0, 60);
  current.messages.push({ role: "user", content });
  element("input").value = "";
  save("conversations", conversations);
  show();
  answer();
}

function start() {
  const kept = load("settings", {});
  for (const name of settings) {
    const field = element(name);
    if (name in kept) {
      field[field.type === "checkbox" ? "checked" : "value"] = kept[name];
    }
    field.addEventListener("change", () => {
      save("settings", Object.fromEntries(settings.filter((id) => id !== "key")
        .map((id) => [id, element(id).type === "checkbox"
          ? element(id).checked : element(id).value])));
    });
  }
  element("form").addEventListener("submit", send);
  element("stop").addEventListener("click", stop);
  element("new").addEventListener("click", begin);
  element("menu").addEventListener("click",
    () => showMenu(!element("sidebar").classList.contains("open")));
  element("input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault(); // or the line break is typed after all
      element("form").requestSubmit();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      stop();
      showMenu(false);
    }
  });
  fetch("/v1/models", { headers: headers() })
    .then((response) => response.json())
    .then((list) => {
      model = list.data[0].id;
      element("model").textContent = model;
    })
    .catch(() => {
      element("status").textContent = "An API key is needed: see the settings.";
    });
  show();
}

start();
