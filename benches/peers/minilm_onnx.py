"""all-MiniLM-L6-v2 for onnxruntime, pooling and normalization inside the graph.

    minilm_onnx.py export HF_DIR OUT.onnx         needs torch and transformers
    minilm_onnx.py quantize IN.onnx OUT.onnx      needs onnxruntime

Both files hold what onnxruntime can do best: `quantize` fuses attention, layer norms
and GELU with onnxruntime's own optimizer and then quantizes the matrices to int8
(activations dynamically); it writes the fused f32 graph over IN.onnx.
"""

import math
import pathlib
import sys


def export(source: pathlib.Path, out: pathlib.Path) -> None:
    import torch
    from transformers import AutoModel

    heads, head_dim = 12, 32

    def attend(layer, hidden, bias):
        """Self-attention written as BERT's first code had it, which onnxruntime fuses."""
        attention = layer.attention.self
        split = lambda x: x.view(x.shape[0], x.shape[1], heads, head_dim).permute(0, 2, 1, 3)
        query, key, value = (
            split(project(hidden))
            for project in (attention.query, attention.key, attention.value)
        )
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(head_dim)
        mixed = torch.matmul(torch.softmax(scores + bias, dim=-1), value)
        mixed = mixed.permute(0, 2, 1, 3).contiguous()
        return mixed.view(mixed.shape[0], mixed.shape[1], heads * head_dim)

    class Embedder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = AutoModel.from_pretrained(
                source, dtype=torch.float32, attn_implementation="eager", add_pooling_layer=False
            )

        def forward(self, input_ids, attention_mask):
            # The mask in the form that onnxruntime recognises as a mask.
            bias = (1.0 - attention_mask[:, None, None, :].float()) * -10000.0
            hidden = self.model.embeddings(
                input_ids=input_ids, token_type_ids=torch.zeros_like(input_ids)
            )
            for layer in self.model.encoder.layer:
                hidden = layer.attention.output(attend(layer, hidden, bias), hidden)
                hidden = layer.output(layer.intermediate(hidden), hidden)
            mask = attention_mask.unsqueeze(-1).float()
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            return torch.nn.functional.normalize(pooled, dim=-1)

    ids = torch.randint(1000, 2000, (2, 12))
    mask = torch.ones_like(ids)
    axes = {0: "batch", 1: "length"}
    # The older exporter: onnxruntime's fusions know its graphs, not yet the newer one's.
    torch.onnx.export(
        Embedder().eval(),
        (ids, mask),
        str(out),
        input_names=["input_ids", "attention_mask"],
        output_names=["embedding"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "embedding": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def quantize(source: pathlib.Path, out: pathlib.Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(
        str(source), model_type="bert", num_heads=12, hidden_size=384, opt_level=0, use_gpu=False
    )
    print("fused:", {k: v for k, v in fused.get_fused_operator_statistics().items() if v})
    fused.save_model_to_file(str(source))
    quantize_dynamic(
        source,
        out,
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


if __name__ == "__main__":
    step, source, out = sys.argv[1:]
    {"export": export, "quantize": quantize}[step](pathlib.Path(source), pathlib.Path(out))
