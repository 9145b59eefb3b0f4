// Builds what Grafana loads: one AMD module whose externals Grafana itself provides.
const path = require("node:path");
const CopyPlugin = require("copy-webpack-plugin");

const version = process.env.PERFUSE_VERSION ?? "0.0.0";

/** @type {import("webpack").Configuration} */
module.exports = {
  context: path.join(__dirname, "src"),
  entry: { module: "./module.ts" },
  mode: "production",
  devtool: false,
  target: ["web", "es2022"],
  // Those that Grafana shares with plugins. Not react/jsx-runtime: JSX is written as calls of React.createElement, so
  // that one build runs under React 18 and 19.
  externals: ["react", "react-dom", "rxjs", "@emotion/css", "@grafana/data", "@grafana/runtime", "@grafana/schema", "@grafana/ui"],
  resolve: { extensions: [".ts", ".tsx"] },
  module: {
    rules: [
      {
        test: /\.tsx?$/,
        loader: "swc-loader",
        options: {
          jsc: { target: "es2022", parser: { syntax: "typescript", tsx: true }, transform: { react: { runtime: "classic" } } },
        },
      },
    ],
  },
  output: { path: path.join(__dirname, "dist"), filename: "[name].js", library: { type: "amd" }, publicPath: "auto", uniqueName: "perfuse-profiling-datasource" },
  plugins: [
    new CopyPlugin({
      patterns: [
        { from: "plugin.json", transform: (text) => text.toString().replace('"version": "0.0.0"', `"version": "${version}"`) },
        { from: "img", to: "img" },
        { from: "../../../LICENSE", to: "." },
      ],
    }),
  ],
};
