import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { newApi } from "./api/client";
import "./theme.css";
import "./page.css";
import { App } from "./views/App";

const root = document.getElementById("root");
if (root === null) throw new Error("BUG: index.html has no #root");
createRoot(root).render(
  <StrictMode>
    <App api={newApi(location.origin)} />
  </StrictMode>,
);
